# What a node could not run with, or should not, in sentences.
{
  lib,
  cfg,
  secrets,
  listensBeyondLoopback,
  isHiqlite,
  isHiqliteNode,
}:
let
  peers = lib.attrValues cfg.peers;
  twice =
    values: lib.unique (lib.filter (value: lib.count (other: other == value) values > 1) values);
  named = attribute: twice (map (peer: toString peer.${attribute}) peers);

  isInStore =
    path: path != null && (builtins.isPath path || lib.hasPrefix builtins.storeDir (toString path));
  exposed = lib.attrNames (lib.filterAttrs (_: isInStore) secrets);

  secretSettings =
    lib.intersectLists (lib.attrNames cfg.settings) [
      "secret_key_file"
      "http_token_file"
      "join_ticket_file"
    ]
    ++ map (name: "hiqlite.${name}") (
      lib.intersectLists (lib.attrNames (cfg.settings.hiqlite or { })) [
        "secret_raft_file"
        "secret_api_file"
      ]
    );

  missingSecrets =
    lib.optional (isHiqliteNode && cfg.hiqlite.secretRaftFile == null) "hiqlite.secretRaftFile"
    ++ lib.optional (isHiqlite && cfg.hiqlite.secretApiFile == null) "hiqlite.secretApiFile";
in
[
  {
    assertion = cfg.nodeId != null || cfg.joinTicketFile != null;
    message = ''
      services.aspen.nodeId is not set: give each node of the cluster a number of its own, from 1 on, or
      set services.aspen.joinTicketFile, with which the cluster allots one.
    '';
  }
  {
    assertion =
      cfg.peers == { }
      || cfg.nodeId == null
      || cfg.joinTicketFile != null
      || lib.any (peer: peer.nodeId == cfg.nodeId) peers;
    message = ''
      services.aspen.peers has no entry with nodeId = ${toString cfg.nodeId}, this node's own: the list is
      the same on all nodes and names each of them. Add this one, with the public key that
      `aspen-node keygen` printed.
    '';
  }
  {
    assertion = named "nodeId" == [ ] && named "publicKey" == [ ];
    message = ''
      services.aspen.peers names ${
        lib.concatStringsSep ", " (named "nodeId" ++ named "publicKey")
      } more than
      once: each node has a number and a key of its own.
    '';
  }
  {
    assertion = !listensBeyondLoopback || cfg.httpTokenFile != null;
    message = ''
      services.aspen.settings.http_addr = "${cfg.settings.http_addr}" can be reached from other machines, and
      services.aspen.httpTokenFile is not set: everyone there could read and write. Set httpTokenFile, or
      http_addr to a loopback address.
    '';
  }
  {
    assertion = exposed == [ ];
    message = ''
      ${
        lib.concatMapStringsSep ", " (name: "services.aspen.${name}") exposed
      } would be in the Nix store, which
      everyone on the machine can read. Write the path as a string that leads elsewhere, such as
      "/run/secrets/aspen", and put the secret there by other means.
    '';
  }
  {
    assertion = secretSettings == [ ];
    message = ''
      services.aspen.settings has ${lib.concatStringsSep ", " secretSettings}: the node runs as a user of its
      own, which cannot read root's files. Use services.aspen.secretKeyFile, httpTokenFile, joinTicketFile,
      hiqlite.secretRaftFile and hiqlite.secretApiFile; systemd hands those over.
    '';
  }
  {
    assertion = !(cfg.settings ? data_dir);
    message = ''
      services.aspen.settings.data_dir is set, and the node may write to its state directory alone,
      /var/lib/aspen. To keep data on another disk, mount that at /var/lib/private/aspen.
    '';
  }
  {
    assertion = !isHiqlite || lib.elem "hiqlite" (cfg.package.features or [ ]);
    message = ''
      services.aspen.settings.control_backend is "hiqlite", and services.aspen.package is built without it.
      Set it to "raft", or the package to one with `features = [ "hiqlite" ]`, which is the default.
    '';
  }
  {
    assertion = missingSecrets == [ ];
    message = ''
      services.aspen.settings.control_backend is "hiqlite", and ${
        lib.concatMapStringsSep ", " (name: "services.aspen.${name}") missingSecrets
      } is not
      set: nodes and clients of a Hiqlite cluster prove that they know its secrets. Set it to the path of a
      file with 16 or more characters, the same on all nodes.
    '';
  }
]
