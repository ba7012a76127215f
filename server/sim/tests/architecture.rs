//! The rules of server/ARCHITECTURE.md that a compiler does not check: who may import whom, what a pure room
//! never touches, how large a file may grow. Each failure names the place and the way out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms a room may import. `subject`, `config` and `accounts` are open to all above them; the rest is
/// listed. A room that is not in this table fails the test: decide where it stands first.
const IMPORTS: [(&str, &[&str]); 14] = [
    ("heap", &[]),
    ("subject", &[]),
    ("wire", &[]),
    ("config", &["subject"]),
    ("accounts", &["subject", "config"]),
    // `wire` for rendering: a message is encoded once, in the router's scratch buffer
    ("broker", &["subject", "config", "accounts", "wire"]),
    ("client", &["subject", "config", "accounts", "wire", "broker"]),
    ("cluster", &["subject", "config", "accounts", "wire", "broker"]),
    ("ocsp", &["wire"]),
    ("monitor", &["subject", "config", "accounts", "wire", "broker", "client", "cluster"]),
    ("engine", &["subject", "config", "accounts", "wire", "broker", "client", "cluster", "monitor"]),
    (
        "node",
        &[
            "heap", "subject", "config", "accounts", "wire", "broker", "client", "cluster", "ocsp",
            "monitor", "engine",
        ],
    ),
    ("sim", &["subject", "config", "accounts", "wire", "broker", "client", "cluster", "monitor", "engine"]),
    // the load generator knows the protocol only: it must be usable against any server
    ("bench", &["wire"]),
];

/// Rooms whose every input is an argument.
const PURE: [&str; 10] =
    ["subject", "wire", "config", "accounts", "broker", "client", "cluster", "ocsp", "monitor", "engine"];

/// Crates that bring sockets, clocks, threads or randomness.
const IMPURE_CRATES: [&str; 15] = [
    "async-io",
    "async-std",
    "crossbeam-channel",
    "futures",
    "getrandom",
    "hyper",
    "hyper-util",
    "mio",
    "rayon",
    "reqwest",
    "rustls",
    "smol",
    "socket2",
    "tokio",
    "tracing-subscriber",
];

/// Text that must not stand in a pure room, and why.
const BANNED: [(&str, &str); 32] = [
    ("std::fs", "files are loaded by `node`; take a loader as an argument"),
    ("File::open", "files are loaded by `node`; take a loader as an argument"),
    ("TcpStream", "sockets belong to `node`; bytes leave through `broker::Transport`"),
    ("TcpListener", "sockets belong to `node`; bytes leave through `broker::Transport`"),
    ("UdpSocket", "sockets belong to `node`"),
    ("UnixStream", "sockets belong to `node`"),
    ("ToSocketAddrs", "it asks the resolver; names are resolved by `node`"),
    ("to_socket_addrs", "it asks the resolver; names are resolved by `node`"),
    ("Instant::now", "time is an argument: replay must see the same clock"),
    ("SystemTime::now", "time is an argument: replay must see the same clock"),
    ("UNIX_EPOCH.elapsed", "time is an argument: replay must see the same clock"),
    ("Timestamp::now", "time is an argument: replay must see the same clock"),
    ("Zoned::now", "time is an argument: replay must see the same clock"),
    ("TimeZone::system", "the zone is the machine's; take it as an argument"),
    ("std::thread", "threads belong to `node`"),
    ("thread::spawn", "threads belong to `node`"),
    ("thread_local!", "state of a thread is hidden state; hold it in a struct"),
    ("std::process", "processes belong to `node`"),
    ("std::env", "the environment is an argument: pass a look-up"),
    ("env::var", "the environment is an argument: pass a look-up"),
    ("tokio::", "no runtime in a pure room"),
    ("rand::rng()", "randomness is a seeded field or an argument"),
    ("rand::random", "randomness is a seeded field or an argument"),
    ("ThreadRng", "randomness is a seeded field or an argument"),
    ("OsRng", "randomness is a seeded field or an argument"),
    ("SysRng", "randomness is a seeded field or an argument"),
    ("make_rng", "randomness is a seeded field or an argument"),
    ("getrandom", "randomness is a seeded field or an argument"),
    ("thread_rng", "randomness is a seeded field or an argument"),
    ("RandomState", "randomness is a seeded field or an argument"),
    ("println!", "a pure room prints nothing; return it"),
    ("dbg!", "left over from a search"),
];

/// The room that may call what only unsafe code can: it forbids nothing by lint, so a test counts.
const UNSAFE_ROOM: &str = "heap";

/// Lines that a file may have without its tests.
const FILE_LINES_MAX: usize = 900;

/// Files that are longer than that, and how long they may be. May only shrink: split, then lower or delete.
const LONG_FILES: [(&str, usize); 0] = [];

/// Names that say nothing: what is in such a module belongs to the lowest room that means it.
const EMPTY_NAMES: [&str; 7] = ["common", "core", "helpers", "misc", "types", "util", "utils"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace is two levels up")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn manifest(path: &Path) -> toml::Table {
    read(path).parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Folders of the workspace's crates, by short name.
fn crates() -> BTreeMap<String, PathBuf> {
    let root = root();
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root.join("server")).expect("server/ is there") {
        let path = entry.expect("server/ can be listed").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name != "fuzz" && path.join("Cargo.toml").is_file() {
            found.insert(name, path);
        }
    }
    found.insert("operator".into(), root.join("operator"));
    found.insert("e2e".into(), root.join("e2e"));
    found
}

/// Rust files under `folder` that ship: neither a `tests` folder nor a file of unit tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("a folder can be listed").path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "tests" {
                open.push(path);
            } else if name.ends_with(".rs") && name != "tests.rs" && !name.ends_with("_tests.rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The lines in front of the file's unit tests, with their numbers.
fn shipped_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut lines = text.lines().enumerate().peekable();
    std::iter::from_fn(move || {
        let (number, line) = lines.next()?;
        let tests = line.starts_with("#[cfg(test)]")
            && lines
                .peek()
                .is_some_and(|(_, next)| next.trim_start().starts_with("mod ") && next.ends_with('{'));
        (!tests).then_some((number + 1, line))
    })
}

/// The code of a line: what stands in front of a comment.
fn code(line: &str) -> &str {
    if line.trim_start().starts_with("//") { "" } else { line.split(" // ").next().unwrap_or_default() }
}

/// Whether `word` stands in `code` and is not the end of a longer name.
fn contains_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn place(path: &Path, line: usize) -> String {
    format!("{}:{line}", path.strip_prefix(root()).unwrap_or(path).display())
}

fn none(violations: &[String]) {
    assert!(violations.is_empty(), "{} violation(s):\n{}", violations.len(), violations.join("\n"));
}

fn names(manifest: &toml::Table, section: &str) -> Vec<String> {
    let table = manifest.get(section).and_then(toml::Value::as_table);
    table.map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

#[test]
fn rooms_import_only_the_rooms_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = IMPORTS.into_iter().collect();
    let mut violations = Vec::new();
    for (name, folder) in crates() {
        if name == "operator" || name == "e2e" {
            continue;
        }
        let Some(allowed) = allowed.get(name.as_str()) else {
            violations
                .push(format!("server/{name}: not in the table of rooms; say in IMPORTS where it stands"));
            continue;
        };
        for import in names(&manifest(&folder.join("Cargo.toml")), "dependencies") {
            if IMPORTS.iter().any(|(room, _)| *room == import) && !allowed.contains(&import.as_str()) {
                violations.push(format!("server/{name}/Cargo.toml: must not import `{import}`"));
            }
        }
    }
    none(&violations);
}

#[test]
fn the_operator_imports_only_what_describes_a_broker_never_one_that_runs() {
    let mut violations = Vec::new();
    for import in names(&manifest(&root().join("operator/Cargo.toml")), "dependencies") {
        if IMPORTS.iter().any(|(room, _)| *room == import)
            && !["config", "subject"].contains(&import.as_str())
        {
            violations
                .push(format!("operator/Cargo.toml: must not import `{import}`: config and subject only"));
        }
    }
    none(&violations);
}

#[test]
fn pure_rooms_depend_on_no_crate_that_acts() {
    let mut violations = Vec::new();
    for room in PURE {
        let manifest = manifest(&root().join("server").join(room).join("Cargo.toml"));
        for import in names(&manifest, "dependencies") {
            if IMPURE_CRATES.contains(&import.as_str()) {
                violations.push(format!("server/{room}/Cargo.toml: `{import}` belongs to `node`"));
            }
        }
    }
    none(&violations);
}

#[test]
fn pure_rooms_touch_no_socket_clock_thread_file_or_randomness() {
    let mut violations = Vec::new();
    for room in PURE {
        for path in sources(&root().join("server").join(room).join("src")) {
            let text = read(&path);
            for (number, line) in shipped_lines(&text) {
                for (banned, reason) in BANNED {
                    if contains_word(code(line), banned) {
                        violations.push(format!("{}: `{banned}`: {reason}", place(&path, number)));
                    }
                }
            }
        }
    }
    none(&violations);
}

#[test]
fn the_lowest_room_needs_no_standard_library() {
    let text = read(&root().join("server/subject/src/lib.rs"));
    assert!(text.contains("#![no_std]"), "server/subject/src/lib.rs: lost its #![no_std]");
}

#[test]
fn files_stay_small_enough_to_be_read() {
    let long: BTreeMap<&str, usize> = LONG_FILES.into_iter().collect();
    let mut violations = Vec::new();
    for folder in crates().values() {
        for path in sources(&folder.join("src")) {
            let text = read(&path);
            let lines = shipped_lines(&text).count();
            let name = place(&path, 0).trim_end_matches(":0").to_string();
            let max = long.get(name.as_str()).copied().unwrap_or(FILE_LINES_MAX);
            if lines > max {
                violations.push(format!("{name}: {lines} lines without tests, {max} allowed: split it"));
            } else if max > FILE_LINES_MAX && lines <= FILE_LINES_MAX {
                violations.push(format!("{name}: short enough now: take it off LONG_FILES"));
            }
        }
    }
    none(&violations);
}

#[test]
fn no_work_is_left_as_a_placeholder() {
    let mut violations = Vec::new();
    for folder in crates().values() {
        for path in sources(&folder.join("src")) {
            let text = read(&path);
            for (number, line) in shipped_lines(&text) {
                for placeholder in ["todo!", "unimplemented!"] {
                    if contains_word(code(line), placeholder) {
                        violations.push(format!(
                            "{}: `{placeholder}`: finish it or leave it out",
                            place(&path, number)
                        ));
                    }
                }
            }
        }
    }
    none(&violations);
}

#[test]
fn unsafe_code_is_three_blocks_in_the_room_of_the_heap_and_nowhere_else() {
    let mut found = Vec::new();
    for path in sources(&root().join("server").join(UNSAFE_ROOM)) {
        let text = read(&path);
        let blocks = shipped_lines(&text).filter(|(_, line)| contains_word(code(line), "unsafe {"));
        found.extend(blocks.map(|(number, line)| format!("{}: {}", place(&path, number), line.trim())));
    }
    assert_eq!(found.len(), 3, "unsafe blocks: {found:#?}");
}

#[test]
fn every_other_crate_forbids_unsafe_code() {
    let workspace = manifest(&root().join("Cargo.toml"));
    let lints = &workspace["workspace"]["lints"]["rust"];
    assert_eq!(
        lints["unsafe_code"].as_str(),
        Some("forbid"),
        "Cargo.toml: [workspace.lints.rust] unsafe_code"
    );
    let mut violations = Vec::new();
    for (name, folder) in crates() {
        let path = folder.join("Cargo.toml");
        if name == UNSAFE_ROOM {
            continue;
        }
        let inherits = manifest(&path).get("lints").and_then(|lints| lints.get("workspace")?.as_bool());
        if inherits != Some(true) {
            violations.push(format!("{}: needs [lints] workspace = true", place(&path, 1)));
        }
    }
    none(&violations);
}

#[test]
fn every_file_says_what_it_is_for_and_is_named_after_it() {
    let mut violations = Vec::new();
    for folder in crates().values() {
        for path in sources(&folder.join("src")) {
            if !read(&path).trim_start().starts_with("//!") {
                violations.push(format!("{}: begins without a module comment (//!)", place(&path, 1)));
            }
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let folder =
                path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
            if EMPTY_NAMES.contains(&stem.as_str()) || EMPTY_NAMES.contains(&folder.as_str()) {
                violations.push(format!("{}: a name that says nothing", place(&path, 1)));
            }
        }
    }
    none(&violations);
}

/// The scanner itself: a rule that finds nothing must be known to be able to find something.
#[test]
fn the_scan_sees_code_and_skips_comments_names_and_tests() {
    let text = "//! about std::fs\nuse std::fs;\nlet a = f(); // std::fs\n#[cfg(test)]\nmod tests {\nuse std::fs;\n}\n";
    let found: Vec<usize> = shipped_lines(text)
        .filter(|(_, line)| contains_word(code(line), "std::fs"))
        .map(|(n, _)| n)
        .collect();
    assert_eq!(found, [2]);
    assert!(!contains_word("my_rand::rng()", "rand::rng()"));
    assert!(contains_word("let x = rand::rng();", "rand::rng()"));
}
