# Both programs, completions, pages of the manual, and the units.
{
  lib,
  stdenv,
  rustPlatform,
  curl,
  installShellFiles,
  util-linux,
  # Features of Cargo.toml beside the default ones. SQLite comes with its crate and takes a C compiler.
  features ? [ "hiqlite" ],
}:
let
  manifest = (lib.importTOML ../Cargo.toml).package;
  units = lib.fileset.toSource {
    root = ./.;
    fileset = lib.fileset.fileFilter (file: file.hasExt "service" || file.hasExt "timer") ./.;
  };
in
rustPlatform.buildRustPackage {
  pname = "aspen-node";
  inherit (manifest) version;

  src = import ./source.nix { inherit lib; };
  cargoLock.lockFile = ../Cargo.lock;

  buildFeatures = features;
  cargoBuildFlags = [
    "--bins"
    "--example=manual"
  ];

  nativeBuildInputs = [ installShellFiles ];

  # The examples of the documentation are run, and limits are set on running nodes.
  nativeCheckInputs = [
    curl
    util-linux
  ];
  # They look through documents that are not in the source, where a word would build everything anew. The
  # check `names` runs them.
  checkFlags = [ "--skip=documents::" ];

  postInstall = ''
    for unit in aspen.service aspen-backup.service aspen-backup.timer; do
      install -D --mode=444 ${units}/$unit $out/lib/systemd/system/$unit
    done
    install -D --mode=555 ${./aspen-backup.sh} $out/libexec/aspen-backup
    substituteInPlace $out/lib/systemd/system/aspen.service \
      --replace-fail /usr/bin/aspen-node $out/bin/aspen-node \
      --replace-fail /bin/kill ${lib.getExe' util-linux "kill"}
    substituteInPlace $out/lib/systemd/system/aspen-backup.service \
      --replace-fail /usr/libexec/aspen-backup $out/libexec/aspen-backup
    install -D --mode=444 ${../aspen.example.toml} $out/share/doc/aspen/aspen.example.toml
  ''
  + lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    target/${stdenv.hostPlatform.rust.cargoShortTarget}/release/examples/manual manual
    installManPage manual/man/man1/*
    installShellCompletion --bash manual/bash-completion/completions/*
    installShellCompletion --zsh manual/zsh/site-functions/*
    installShellCompletion --fish manual/fish/vendor_completions.d/*
  '';

  passthru = { inherit features; };

  meta = {
    inherit (manifest) description;
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "aspen-node";
    platforms = lib.platforms.linux;
  };
}
