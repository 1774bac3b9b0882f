# What `nix run` starts: a node, the client, and a cluster of three nodes on this machine.
{
  lib,
  pkgs,
  own,
}:
let
  localCluster = pkgs.writeShellApplication {
    name = "aspen-cluster";
    runtimeInputs = [
      own.aspen-node
      pkgs.coreutils
    ];
    text = builtins.readFile ../scripts/local-cluster.sh;
  };
  app = program: description: {
    type = "app";
    inherit program;
    meta = { inherit description; };
  };
in
rec {
  default = aspen-node;
  aspen-node = app (lib.getExe' own.aspen-node "aspen-node") "Run a node of Aspen";
  aspen = app (lib.getExe' own.aspen-node "aspen") "Talk to a cluster of Aspen";
  cluster = app (lib.getExe localCluster) "Run a cluster of three nodes on this machine";
}
