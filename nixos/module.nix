# services.aspen: what only NixOS knows about a node. The rest is in the units that the package brings.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;

  cfg = config.services.aspen;
  format = pkgs.formats.toml { };
  address = import ./address.nix { inherit lib; };

  listensBeyondLoopback = !address.isLoopback cfg.settings.http_addr;
  isHiqlite = cfg.settings.control_backend == "hiqlite";
  isHiqliteNode = isHiqlite && cfg.settings.hiqlite.mode != "remote";
  # Where the settings say nothing the daemon takes loopback addresses.
  hiqliteAddresses = lib.optionals isHiqliteNode (
    lib.filter (listensAt: listensAt != null && !address.isLoopback listensAt) [
      cfg.settings.hiqlite.raft_addr
      cfg.settings.hiqlite.api_addr
    ]
  );
  settings = lib.filterAttrsRecursive (_: value: value != null) cfg.settings;

  # Refused here rather than at the next start. Each credential that systemd will hand over has a stand-in, of
  # the 16 characters or more that Hiqlite wants.
  configFile =
    let
      unchecked = format.generate "aspen.toml" settings;
      checked =
        pkgs.runCommand "aspen.toml" { }
          # bash
          ''
            umask 077
            mkdir credentials
            for name in ${toString (lib.attrNames credentials)}; do
              echo stand-in-of-a-secret > credentials/$name
            done
            CREDENTIALS_DIRECTORY=$PWD/credentials \
              ${lib.getExe' cfg.package "aspen-node"} --config ${unchecked} --check-config
            cp ${unchecked} $out
          '';
    in
    if pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform then checked else unchecked;

  secrets = {
    inherit (cfg) secretKeyFile httpTokenFile joinTicketFile;
    "hiqlite.secretRaftFile" = cfg.hiqlite.secretRaftFile;
    "hiqlite.secretApiFile" = cfg.hiqlite.secretApiFile;
  };
  credentials = lib.filterAttrs (_: path: path != null) {
    iroh-secret-key = cfg.secretKeyFile;
    http-token = cfg.httpTokenFile;
    join-ticket = cfg.joinTicketFile;
    hiqlite-secret-raft = cfg.hiqlite.secretRaftFile;
    hiqlite-secret-api = cfg.hiqlite.secretApiFile;
  };

  hexKey = types.strMatching "[0-9a-f]{64}" // {
    description = "64 hexadecimal digits";
  };

  # A secret's path. That it is outside of the store is asserted, in a sentence.
  secretFile = types.nullOr types.path;

  # A key of the daemon that keeps the daemon's default where it is not set.
  setting =
    type: example: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit example description;
    };
in
{
  options.services.aspen = {
    enable = lib.mkEnableOption "a node of Aspen, a replicated key-value store";

    package = lib.mkPackageOption pkgs "aspen-node" { };

    nodeId = mkOption {
      type = types.nullOr types.ints.positive;
      default = null;
      example = 1;
      description = ''
        The node's number in its cluster. It never changes, and is never used again for another machine or
        an empty disk. Leave it out with {option}`joinTicketFile`: then the cluster allots it.
      '';
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to let other machines in: to the UDP port of `settings.iroh_addr`, to the TCP port of
        `settings.http_addr` if that is no loopback address, to that of `settings.serve_relay` if the node
        serves a relay, and to those of `settings.hiqlite.raft_addr` and `api_addr` if it is a node of Hiqlite.
      '';
    };

    secretKeyFile = mkOption {
      type = secretFile;
      default = null;
      example = "/run/secrets/aspen-key";
      description = ''
        File with the node's secret key, as `aspen-node keygen` writes it. systemd hands it to the node, so
        root alone need be able to read it. Without one the node makes a key in its state directory.
      '';
    };

    httpTokenFile = mkOption {
      type = secretFile;
      default = null;
      example = "/run/secrets/aspen-http-token";
      description = ''
        File with the bearer token that requests to the HTTP API must carry. Needed if
        `settings.http_addr` is no loopback address.
      '';
    };

    joinTicketFile = mkOption {
      type = secretFile;
      default = null;
      example = "/run/secrets/aspen-join-ticket";
      description = ''
        File with a ticket of `aspen ticket new`, with which a new node joins a running cluster. The node
        looks at it on its first start only, but systemd needs the file on every one.
      '';
    };

    peers = mkOption {
      default = { };
      example = lib.literalExpression ''
        {
          berlin = {
            nodeId = 1;
            publicKey = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c";
            addresses = [ "192.0.2.1:4601" ];
          };
          paris = {
            nodeId = 2;
            publicKey = "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394";
          };
        }
      '';
      description = ''
        All nodes of the cluster, this one included: write them down once, and import that into each host.
        New nodes with the same peers found one cluster by themselves. A node that is added later joins with
        a ticket.
      '';
      type = types.attrsOf (
        types.submodule {
          options = {
            nodeId = mkOption {
              type = types.ints.positive;
              example = 1;
              description = "The node's number.";
            };
            publicKey = mkOption {
              type = hexKey;
              example = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c";
              description = "The node's public key, as `aspen-node keygen` prints it.";
            };
            addresses = mkOption {
              type = types.listOf address.type;
              default = [ ];
              example = [
                "192.0.2.1:4601"
                "[2001:db8::1]:4601"
              ];
              description = ''
                IP addresses and UDP ports at which the node can be reached; names are not resolved. A node
                without any is met over its relay, or calls the others itself.
              '';
            };
            relayUrl = mkOption {
              type = types.nullOr types.str;
              default = if lib.hasPrefix "http" cfg.relay then cfg.relay else null;
              defaultText = lib.literalMD "{option}`services.aspen.relay`, if that is a URL";
              example = "https://relay.example.com";
              description = "The relay over which the node can be reached.";
            };
          };
        }
      );
    };

    relay = mkOption {
      type = types.either (types.enum [
        "disabled"
        "n0"
      ]) (types.strMatching "https?://.+");
      default = "disabled";
      example = "https://relay.example.com";
      description = ''
        Relay for nodes that find no direct path to each other: `disabled`, so that nothing calls out; `n0`,
        the public ones; or the URL of an own one.
      '';
    };

    hiqlite = {
      secretRaftFile = mkOption {
        type = secretFile;
        default = null;
        example = "/run/secrets/aspen-hiqlite-raft";
        description = ''
          File with the secret that nodes of a Hiqlite cluster prove to each other: 16 or more visible ASCII
          characters, the same on all of them. Needed if `settings.control_backend` is `hiqlite`, unless
          `settings.hiqlite.mode` is `remote`.
        '';
      };

      secretApiFile = mkOption {
        type = secretFile;
        default = null;
        example = "/run/secrets/aspen-hiqlite-api";
        description = ''
          File with the secret that clients of a Hiqlite cluster prove, of the same kind. Needed if
          `settings.control_backend` is `hiqlite`.
        '';
      };
    };

    settings = mkOption {
      default = { };
      description = ''
        Content of {file}`/etc/aspen/aspen.toml`: any key of
        [aspen.example.toml](../aspen.example.toml). The options of {option}`services.aspen` set
        `node_id`, `peers` and `iroh_relay`; secrets have options of their own.
      '';
      type = types.submodule {
        freeformType = format.type;
        options = {
          http_addr = mkOption {
            type = address.type;
            default = "127.0.0.1:4600";
            example = "192.0.2.1:4600";
            description = "IP address and port of the HTTP API.";
          };
          iroh_addr = mkOption {
            type = address.type;
            default = "0.0.0.0:4601";
            example = "[::]:4601";
            description = "IP address and UDP port for the other nodes.";
          };
          bootstrap = mkOption {
            type = types.enum [
              "auto"
              "manual"
              "static"
            ];
            default = if cfg.peers != { } && cfg.joinTicketFile == null then "static" else "auto";
            defaultText = lib.literalMD "`static` with peers and without a join ticket, else `auto`";
            example = "static";
            description = ''
              How a new node comes to its cluster: `static`, it founds one with its peers; `auto`, it makes
              one of its own if it knows nobody; `manual`, it waits to be told.
            '';
          };
          control_backend = mkOption {
            type = types.enum [
              "raft"
              "hiqlite"
            ];
            default = "raft";
            description = "What replicates the data. `hiqlite` needs a package that has it built in, as the default one has.";
          };
          client_keys = mkOption {
            type = types.listOf hexKey;
            default = [ ];
            example = [ "ca93ac1705187071d67b83c7ff0efe8108e8ec4530575d7726879333dbdabe7c" ];
            description = "Public keys of clients that may read and write over iroh.";
          };
          learner = mkOption {
            type = types.bool;
            default = false;
            example = true;
            description = "Whether a node that joins with a ticket stays without a vote.";
          };
          network_profile = mkOption {
            type = types.enum [
              "lan"
              "wan"
            ];
            default = "lan";
            example = "wan";
            description = "Timings of consensus: `lan` for one network, `wan` for several sites or relays.";
          };
          iroh_mdns = mkOption {
            type = types.bool;
            default = false;
            example = true;
            description = ''
              Whether the node announces its key and addresses on the local network by multicast DNS, and
              finds known nodes there. It needs UDP port 5353 open.
            '';
          };
          serve_relay = setting address.type "192.0.2.1:4602" ''
            IP address and TCP port of a relay that the node serves to its cluster alone.
          '';
          log_filter = setting types.str "info,aspen::transport=debug" ''
            Which logs are written: a level, and target=level pairs after commas.
          '';
          raft.snapshot_every_entries = setting types.ints.positive 10000 ''
            Applied entries after which a snapshot is made and the log is shortened.
          '';
          storage_options.cache_bytes = setting types.ints.positive 268435456 ''
            Page cache of the state. The log has one of at most 16 MiB.
          '';
          storage_options.disk_reserve_bytes = setting types.ints.positive 1073741824 ''
            Room on the disk that is kept free of data.
          '';
          kv.history_revisions = setting types.ints.positive 100000 ''
            Revisions of history that can be read and watched from.
          '';
          hiqlite.mode =
            setting
              (types.enum [
                "embedded"
                "remote"
              ])
              "remote"
              ''
                Whether the process is a node of the Hiqlite cluster, or a client of the `hiqlite.nodes`.
              '';
          hiqlite.raft_addr = setting address.type "192.0.2.1:4602" ''
            IP address and TCP port at which the other nodes of Hiqlite reach this node. It never changes.
          '';
          hiqlite.api_addr = setting address.type "192.0.2.1:4603" ''
            IP address and TCP port at which Hiqlite's clients and management reach this node. It never changes.
          '';
        };
      };
    };

    backup = {
      enable = lib.mkEnableOption "backups of the cluster by this node's machine";

      directory = mkOption {
        type = types.path;
        default = "/var/lib/aspen-backup";
        example = "/mnt/backup/aspen";
        description = "Where backups go. It is made if it is missing, and root alone can read it.";
      };

      schedule = mkOption {
        type = types.str;
        default = "daily";
        example = "*-*-* 03:00:00";
        description = "When, as {manpage}`systemd.time(7)` writes it.";
      };

      keep = mkOption {
        type = types.ints.positive;
        default = 7;
        example = 30;
        description = "How many backups are kept.";
      };
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = import ./assertions.nix {
      inherit
        lib
        cfg
        secrets
        listensBeyondLoopback
        isHiqlite
        isHiqliteNode
        ;
    };

    services.aspen.settings = {
      node_id = lib.mkIf (cfg.nodeId != null) cfg.nodeId;
      iroh_relay = cfg.relay;
      peers = lib.mapAttrsToList (
        _: peer:
        {
          node_id = peer.nodeId;
          public_key = peer.publicKey;
          inherit (peer) addresses;
        }
        // lib.optionalAttrs (peer.relayUrl != null) { relay_url = peer.relayUrl; }
      ) cfg.peers;
    };

    environment.etc."aspen/aspen.toml".source = configFile;
    environment.systemPackages = [ cfg.package ];

    networking.firewall = lib.mkIf cfg.openFirewall {
      allowedUDPPorts = [ (address.port cfg.settings.iroh_addr) ];
      allowedTCPPorts =
        lib.optional listensBeyondLoopback (address.port cfg.settings.http_addr)
        ++ lib.optional (cfg.settings.serve_relay != null) (address.port cfg.settings.serve_relay)
        ++ map address.port hiqliteAddresses;
    };

    systemd.packages = [ cfg.package ];

    systemd.services.aspen = {
      wantedBy = [ "multi-user.target" ];
      restartTriggers = [ configFile ];
      serviceConfig.LoadCredential = lib.mapAttrsToList (
        name: path: "${name}:${toString path}"
      ) credentials;
    };

    systemd.services.aspen-backup = lib.mkIf cfg.backup.enable {
      path = [ cfg.package ];
      environment = {
        ASPEN_ADDR = address.ownUrl cfg.settings.http_addr;
        BACKUP_DIRECTORY = toString cfg.backup.directory;
        BACKUP_KEEP = toString cfg.backup.keep;
      };
      serviceConfig = {
        LoadCredential = lib.optional (
          cfg.httpTokenFile != null
        ) "http-token:${toString cfg.httpTokenFile}";
        ReadWritePaths = [ (toString cfg.backup.directory) ];
      };
    };

    systemd.timers.aspen-backup = lib.mkIf cfg.backup.enable {
      wantedBy = [ "timers.target" ];
      # The empty one takes the unit's own schedule back.
      timerConfig.OnCalendar = [
        ""
        cfg.backup.schedule
      ];
    };

    systemd.tmpfiles.settings.aspen-backup = lib.mkIf cfg.backup.enable {
      ${toString cfg.backup.directory}.d = {
        mode = "0700";
        user = "root";
        group = "root";
      };
    };
  };

  meta.maintainers = [ ];
}
