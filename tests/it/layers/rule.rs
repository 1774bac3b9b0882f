//! The rule itself: which layer may use which, and which library belongs where.

/// Layers by the module path that they begin at; the longest match counts.
const LAYERS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    // In the simulation's build alone.
    ("planted", &[]),
    ("kv::types", &["limits"]),
    ("raft::runtime", &[]),
    ("raft::traffic", &[]),
    ("raft::types", &["raft::runtime", "kv::types", "limits"]),
    ("storage", &["kv::types", "raft::runtime", "raft::types", "limits", "planted"]),
    ("raft", &["storage", "kv::types", "raft::runtime", "raft::types", "limits", "planted"]),
    ("kv", &["raft", "storage", "kv::types", "raft::runtime", "raft::types", "limits", "planted"]),
    ("api", &["kv", "kv::types", "limits"]),
    ("hiqlite", &["kv", "kv::types", "limits"]),
    ("bench", &["kv", "transport", "kv::types", "limits"]),
    ("cli", &["bench", "kv", "transport", "config", "kv::types", "limits"]),
    ("transport", &["kv", "raft", "storage", "kv::types", "raft::traffic", "raft::types", "limits"]),
    // It takes bi-streams from the transport, which knows nothing of actors.
    ("cluster", &["transport", "kv", "raft", "storage", "kv::types", "raft::types", "limits"]),
    ("telemetry", &["limits"]),
    ("metrics", &["raft::traffic", "limits"]),
    ("config", &["telemetry", "kv::types", "limits"]),
    ("fuzzing", &["*"]),
    ("node", &["*"]),
    ("bin", &["*"]),
];

/// Libraries by the beginning of their names, and the layers that may use them.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("iroh", &["transport", "cluster", "node", "config"]),
    ("irpc", &["transport", "cluster", "node"]),
    ("axum", &["api", "node"]),
    ("hiqlite", &["hiqlite", "node"]),
    ("openraft", &["storage", "raft::runtime", "raft::types", "raft", "kv", "transport", "cluster", "node"]),
    ("redb", &["storage"]),
    ("ractor", &["raft", "cluster", "transport", "node"]),
];

/// The layer of a module, the root of the crate being none.
pub fn layer_of(module: &[String]) -> Option<&'static str> {
    let path = module.join("::");
    let begins = |layer: &str| path == layer || path.starts_with(&format!("{layer}::"));
    let layers = LAYERS.iter().map(|&(layer, _)| layer).filter(|layer| begins(layer));
    layers.max_by_key(|layer| layer.len())
}

/// Whether code of a layer may use a path: `crate::…`, or one that begins with a library's name.
pub fn check(from: Option<&'static str>, segments: &[String]) -> Result<(), String> {
    let path = segments.join("::");
    if segments[0] != "crate" {
        return check_library(from, &segments[0], &path);
    }
    let Some(from) = from else {
        return Err(format!(
            "`{path}` is used outside of every layer: give the module its place in the rule"
        ));
    };
    let Some(to) = layer_of(&segments[1..]) else {
        return match from {
            "bin" | "node" => Ok(()),
            _ => Err(format!("`{from}` must not use `{path}`, which is the whole crate or no layer of it")),
        };
    };
    let (_, allowed) = LAYERS.iter().find(|(layer, _)| *layer == from).expect("the layer is known");
    if to == from || allowed.contains(&to) || (allowed.contains(&"*") && to != "bin") {
        return Ok(());
    }
    Err(format!("`{from}` must not use `{path}`: it may use {allowed:?} only"))
}

fn check_library(from: Option<&'static str>, library: &str, path: &str) -> Result<(), String> {
    let belongs = |name: &str| library == name || library.starts_with(&format!("{name}_"));
    let Some((_, allowed)) = LIBRARIES.iter().find(|(name, _)| belongs(name)) else { return Ok(()) };
    match from {
        Some(from) if allowed.contains(&from) || from == "bin" => Ok(()),
        from => Err(format!(
            "`{}` must not use `{path}`: the library belongs to {allowed:?} only",
            from.unwrap_or("the root")
        )),
    }
}
