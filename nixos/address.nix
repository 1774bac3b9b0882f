# Addresses as the daemon writes them: 127.0.0.1:4600, [::1]:4600.
{ lib }:
let
  split = address: builtins.match "(.*):([0-9]+)" address;
  host = address: builtins.elemAt (split address) 0;
  port = address: lib.toInt (builtins.elemAt (split address) 1);
in
rec {
  inherit port;

  # What is no address is refused as such, and split needs no other case.
  type = lib.types.strMatching "([0-9.]+|\\[[0-9a-fA-F:.]+]):[0-9]+" // {
    description = "IP address and port";
  };

  isLoopback =
    address:
    host address == "[::1]"
    || lib.hasPrefix "127." (host address)
    || lib.hasPrefix "[::ffff:127." (host address);

  # Where a client on the same machine finds who listens there.
  ownUrl =
    address:
    let
      reachable =
        {
          "0.0.0.0" = "127.0.0.1";
          "[::]" = "[::1]";
        }
        .${host address} or (host address);
    in
    "http://${reachable}:${toString (port address)}";
}
