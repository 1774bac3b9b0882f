# Configurations that the module must refuse, each with the sentences that it says then. One that is refused in
# another way, or not at all, ends the evaluation.
{
  lib,
  pkgs,
  runCommand,
  module,
  withoutHiqlite,
}:
let
  # The module with no more of NixOS than it takes to ask for its assertions.
  evaluate =
    aspen:
    (lib.evalModules {
      modules = [
        module
        {
          options.assertions = lib.mkOption { type = lib.types.listOf lib.types.raw; };
          config = {
            _module.check = false;
            _module.args = { inherit pkgs; };
            services.aspen = aspen // {
              enable = true;
            };
          };
        }
      ];
    }).config;

  # A sentence may be filled into lines in any way.
  inOneLine =
    text: lib.trim (lib.concatStringsSep " " (lib.filter lib.isString (lib.split "[ \n]+" text)));

  sentences =
    aspen:
    map (broken: inOneLine broken.message) (
      lib.filter (stated: !stated.assertion) (evaluate aspen).assertions
    );

  # Whether the options take these values, whatever they mean together.
  hasRightTypes =
    aspen:
    let
      given = (evaluate aspen).services.aspen;
    in
    (builtins.tryEval (builtins.deepSeq (lib.mapAttrs (name: _: given.${name}) aspen) true)).success;

  key = digits: lib.concatStrings (lib.replicate 32 digits);
  peers = {
    berlin = {
      nodeId = 1;
      publicKey = key "aa";
      addresses = [ "192.0.2.1:4601" ];
    };
    paris = {
      nodeId = 2;
      publicKey = key "bb";
    };
  };

  good = {
    nodeId = 1;
    secretKeyFile = "/run/secrets/key";
    httpTokenFile = "/run/secrets/token";
    settings.http_addr = "192.0.2.1:4600";
    inherit peers;
  };
  hiqlite = {
    nodeId = 1;
    hiqlite = {
      secretRaftFile = "/run/secrets/raft";
      secretApiFile = "/run/secrets/api";
    };
    settings.control_backend = "hiqlite";
  };
  hiqliteClient = {
    hiqlite.secretApiFile = "/run/secrets/api";
    nodeId = 1;
    settings = {
      control_backend = "hiqlite";
      hiqlite.mode = "remote";
      hiqlite.nodes = [ "192.0.2.1:4603" ];
    };
  };

  inStore = option: ''
    services.aspen.${option} would be in the Nix store, which everyone on the machine can read. Write the path as
    a string that leads elsewhere, such as "/run/secrets/aspen", and put the secret there by other means.
  '';
  rootsFile = setting: ''
    services.aspen.settings has ${setting}: the node runs as a user of its own, which cannot read root's files. Use
    services.aspen.secretKeyFile, httpTokenFile, joinTicketFile, hiqlite.secretRaftFile and hiqlite.secretApiFile;
    systemd hands those over.
  '';
  withoutSecret = options: ''
    services.aspen.settings.control_backend is "hiqlite", and ${options} is not set: nodes and clients of a
    Hiqlite cluster prove that they know its secrets. Set it to the path of a file with 16 or more characters, the
    same on all nodes.
  '';
  stored = "${builtins.storeDir}/00000000000000000000000000000000-secret";

  # What is refused, by the sentence.
  refused = {
    "no node id" = {
      given = removeAttrs good [ "nodeId" ];
      says = ''
        services.aspen.nodeId is not set: give each node of the cluster a number of its own, from 1 on, or set
        services.aspen.joinTicketFile, with which the cluster allots one.
      '';
    };
    "no entry of its own" = {
      given = good // {
        nodeId = 3;
      };
      says = ''
        services.aspen.peers has no entry with nodeId = 3, this node's own: the list is the same on all nodes and
        names each of them. Add this one, with the public key that `aspen-node keygen` printed.
      '';
    };
    "a number that two nodes have" = {
      given = good // {
        peers = peers // {
          paris = peers.paris // {
            nodeId = 1;
          };
        };
      };
      says = ''
        services.aspen.peers names 1 more than once: each node has a number and a key of its own.
      '';
    };
    "a public address without a token" = {
      given = good // {
        httpTokenFile = null;
      };
      says = ''
        services.aspen.settings.http_addr = "192.0.2.1:4600" can be reached from other machines, and
        services.aspen.httpTokenFile is not set: everyone there could read and write. Set httpTokenFile, or
        http_addr to a loopback address.
      '';
    };
    "a key in the store" = {
      given = good // {
        secretKeyFile = stored;
      };
      says = inStore "secretKeyFile";
    };
    "a token in the store" = {
      given = good // {
        httpTokenFile = stored;
      };
      says = inStore "httpTokenFile";
    };
    "a ticket in the store" = {
      given = good // {
        joinTicketFile = stored;
      };
      says = inStore "joinTicketFile";
    };
    "the nodes' secret in the store" = {
      given = lib.recursiveUpdate hiqlite { hiqlite.secretRaftFile = stored; };
      says = inStore "hiqlite.secretRaftFile";
    };
    "the clients' secret in the store" = {
      given = lib.recursiveUpdate hiqlite { hiqlite.secretApiFile = stored; };
      says = inStore "hiqlite.secretApiFile";
    };
    # What is no string is copied there as soon as it is looked at.
    "a file of the configuration as a key" = {
      given = good // {
        secretKeyFile = ./tests/keys.json;
      };
      says = inStore "secretKeyFile";
    };
    "a key among the settings" = {
      given = lib.recursiveUpdate good { settings.secret_key_file = "/run/secrets/key"; };
      says = rootsFile "secret_key_file";
    };
    "a secret of Hiqlite among the settings" = {
      given = lib.recursiveUpdate hiqlite { settings.hiqlite.secret_api_file = stored; };
      says = rootsFile "hiqlite.secret_api_file";
    };
    "a data directory" = {
      given = lib.recursiveUpdate good { settings.data_dir = "/srv/aspen"; };
      says = ''
        services.aspen.settings.data_dir is set, and the node may write to its state directory alone,
        /var/lib/aspen. To keep data on another disk, mount that at /var/lib/private/aspen.
      '';
    };
    "Hiqlite that is not built in" = {
      given = hiqlite // {
        package = withoutHiqlite;
      };
      says = ''
        services.aspen.settings.control_backend is "hiqlite", and services.aspen.package is built without it. Set it
        to "raft", or the package to one with `features = [ "hiqlite" ]`, which is the default.
      '';
    };
    "Hiqlite without its secrets" = {
      given = removeAttrs hiqlite [ "hiqlite" ];
      says = withoutSecret "services.aspen.hiqlite.secretRaftFile, services.aspen.hiqlite.secretApiFile";
    };
    "a node of Hiqlite with the clients' secret alone" = {
      given = hiqlite // {
        hiqlite.secretApiFile = "/run/secrets/api";
      };
      says = withoutSecret "services.aspen.hiqlite.secretRaftFile";
    };
    "a client of Hiqlite without its secret" = {
      given = removeAttrs hiqliteClient [ "hiqlite" ];
      says = withoutSecret "services.aspen.hiqlite.secretApiFile";
    };
  };

  # What is no value of its option.
  wrongTypes = {
    "a node id in quotes" = {
      nodeId = "1";
    };
    "a node id of nought" = {
      nodeId = 0;
    };
    "a path that is none" = {
      httpTokenFile = "token";
    };
    "a public key that is too short" = {
      peers.berlin = peers.berlin // {
        publicKey = "aa";
      };
    };
    "a name as a peer's address" = {
      peers.berlin = peers.berlin // {
        addresses = [ "berlin.example.com:4601" ];
      };
    };
    "a relay that is no URL" = {
      relay = "relay.example.com";
    };
    "another backend" = {
      settings.control_backend = "etcd";
    };
    "an address without a port" = {
      settings.http_addr = "192.0.2.1";
    };
  };

  expect = expr: expected: { inherit expr expected; };
  failures = lib.runTests (
    lib.mapAttrs' (
      name:
      { given, says }:
      lib.nameValuePair "test: ${name}" (expect (sentences given) [ (inOneLine says) ])
    ) refused
    // lib.mapAttrs' (
      name: given: lib.nameValuePair "test: ${name}" (expect (hasRightTypes given) false)
    ) wrongTypes
    // {
      "test: a good node" = expect (sentences good) [ ];
      "test: a good node's types" = expect (hasRightTypes good) true;
      "test: a good node of Hiqlite" = expect (sentences hiqlite) [ ];
      "test: a good node of Hiqlite's types" = expect (hasRightTypes hiqlite) true;
      "test: a good client of Hiqlite" = expect (sentences hiqliteClient) [ ];
    }
  );
in
assert lib.debug.throwTestFailures { inherit failures; } == null;
runCommand "aspen-refusals" { } "touch $out"
