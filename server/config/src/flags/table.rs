//! Names and descriptions of the flags, and the help texts made of them.

use crate::tls;

/// What a flag takes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Boolean,
    Integer,
    Text,
}

/// A flag.
pub(super) struct Flag {
    /// What `Flags::set` knows it by.
    pub id: &'static str,
    /// All its names, without dashes.
    pub names: &'static [&'static str],
    pub kind: Kind,
    /// What stands for its value in the help.
    value: &'static str,
    help: &'static str,
    section: &'static str,
}

const fn flag(
    section: &'static str,
    id: &'static str,
    names: &'static [&'static str],
    kind: Kind,
    value: &'static str,
    help: &'static str,
) -> Flag {
    Flag { id, names, kind, value, help, section }
}

use Kind::{Boolean, Integer, Text};

const SERVER: &str = "Server";
const LOGGING: &str = "Logging";
const ACCESS: &str = "Access";
const TLS: &str = "TLS";
const CLUSTER: &str = "Cluster";
const JETSTREAM: &str = "JetStream";
const OTHER: &str = "Other";

pub(super) const FLAGS: &[Flag] = &[
    flag(
        SERVER,
        "addr",
        &["a", "addr", "net"],
        Text,
        "host",
        "Accept clients on this name or address (0.0.0.0 unless given)",
    ),
    flag(
        SERVER,
        "port",
        &["p", "port"],
        Integer,
        "port",
        "Accept clients on this port (4222 unless given, -1: any free one)",
    ),
    flag(
        SERVER,
        "name",
        &["n", "name", "server_name"],
        Text,
        "name",
        "Name of this server (its id unless given)",
    ),
    flag(
        SERVER,
        "server_tags",
        &["server_tags"],
        Text,
        "tag,tag",
        "Tags of this server beside the file's; one that ends in a colon is left out",
    ),
    flag(
        SERVER,
        "client_advertise",
        &["client_advertise"],
        Text,
        "host:port",
        "Address that clients and servers are told of",
    ),
    flag(SERVER, "pid", &["P", "pid"], Text, "file", "Write the process id to this file"),
    flag(
        SERVER,
        "ports_file_dir",
        &["ports_file_dir"],
        Text,
        "dir",
        "Write a file with all ports to this directory",
    ),
    flag(
        SERVER,
        "http_port",
        &["m", "http_port"],
        Integer,
        "port",
        "Serve monitoring over HTTP on this port",
    ),
    flag(
        SERVER,
        "https_port",
        &["ms", "https_port"],
        Integer,
        "port",
        "Serve monitoring over HTTPS on this port",
    ),
    flag(SERVER, "config", &["c", "config"], Text, "file", "Read this configuration file; flags override it"),
    flag(SERVER, "t", &["t"], Boolean, "", "Check the configuration file and stop"),
    flag(
        SERVER,
        "signal",
        &["sl", "signal"],
        Text,
        "signal[=pid]",
        "Tell a running server to ldm, stop, quit, term, reopen or reload; the pid may be a PID file",
    ),
    flag(LOGGING, "log", &["l", "log"], Text, "file", "Log to this file"),
    flag(
        LOGGING,
        "logtime",
        &["T", "logtime"],
        Boolean,
        "",
        "Begin lines with the time (on unless -T=false)",
    ),
    flag(LOGGING, "logtime_utc", &["logtime_utc"], Boolean, "", "Show the time in UTC"),
    flag(LOGGING, "syslog", &["s", "syslog"], Boolean, "", "Log to syslog"),
    flag(
        LOGGING,
        "remote_syslog",
        &["r", "remote_syslog"],
        Text,
        "url",
        "Log to a syslog elsewhere, as in udp://localhost:514",
    ),
    flag(LOGGING, "debug", &["D", "debug"], Boolean, "", "Log lines for developers"),
    flag(LOGGING, "trace", &["V", "trace"], Boolean, "", "Log the protocol"),
    flag(LOGGING, "VV", &["VV"], Boolean, "", "Log the protocol, that of the system account too"),
    flag(LOGGING, "DV", &["DV"], Boolean, "", "Both -D and -V"),
    flag(LOGGING, "DVV", &["DVV"], Boolean, "", "Both -D and -VV"),
    flag(
        LOGGING,
        "log_size_limit",
        &["log_size_limit"],
        Integer,
        "bytes",
        "Begin a new log file at this size",
    ),
    flag(
        LOGGING,
        "max_traced_msg_len",
        &["max_traced_msg_len"],
        Integer,
        "bytes",
        "Show this much of a traced message (0: all)",
    ),
    flag(ACCESS, "user", &["user"], Text, "name", "User that clients must name"),
    flag(ACCESS, "pass", &["pass"], Text, "password", "The user's password"),
    flag(ACCESS, "auth", &["auth"], Text, "token", "Token that clients must bring"),
    flag(TLS, "tls", &["tls"], Boolean, "", "Encrypt clients' connections"),
    flag(TLS, "tlscert", &["tlscert"], Text, "file", "Certificate of this server"),
    flag(TLS, "tlskey", &["tlskey"], Text, "file", "Its private key"),
    flag(TLS, "tlsverify", &["tlsverify"], Boolean, "", "Encrypt, and demand a certificate of clients"),
    flag(
        TLS,
        "tlscacert",
        &["tlscacert"],
        Text,
        "file",
        "Authorities that clients' certificates are checked against",
    ),
    flag(CLUSTER, "routes", &["routes"], Text, "url,url", "Servers of the cluster to connect to"),
    flag(
        CLUSTER,
        "cluster_listen",
        &["cluster", "cluster_listen"],
        Text,
        "url",
        "Accept servers here, as in nats://0.0.0.0:6222",
    ),
    flag(
        CLUSTER,
        "cluster_name",
        &["cluster_name"],
        Text,
        "name",
        "Name of the cluster (agreed on unless given)",
    ),
    flag(CLUSTER, "no_advertise", &["no_advertise"], Boolean, "", "Do not tell clients of the other servers"),
    flag(
        CLUSTER,
        "cluster_advertise",
        &["cluster_advertise"],
        Text,
        "host:port",
        "Address that other servers are told of",
    ),
    flag(
        CLUSTER,
        "connect_retries",
        &["connect_retries"],
        Integer,
        "number",
        "Attempts to reach a server learnt of from others",
    ),
    flag(JETSTREAM, "jetstream", &["js", "jetstream"], Boolean, "", "JetStream (not supported yet)"),
    flag(
        JETSTREAM,
        "store_dir",
        &["sd", "store_dir"],
        Text,
        "dir",
        "Directory for JetStream (without effect yet)",
    ),
    flag(OTHER, "profile", &["profile"], Integer, "port", "Serve profiles on this port"),
    flag(OTHER, "help", &["h", "help"], Boolean, "", "Show this text"),
    flag(OTHER, "version", &["v", "version"], Boolean, "", "Show the version"),
    flag(OTHER, "help_tls", &["help_tls"], Boolean, "", "Show what a tls block can hold"),
];

/// The text of `--help`. `program` is the name to show.
pub fn help(program: &str) -> String {
    let mut text = format!("Usage: {program} [flags]\n\nOne dash or two; -flag value or -flag=value.\n");
    let mut section = "";
    for flag in FLAGS {
        if flag.section != section {
            section = flag.section;
            text.push_str(&format!("\n{section}:\n"));
        }
        let names: Vec<String> = flag
            .names
            .iter()
            .map(|name| {
                if name.len() <= 3 && flag.names.len() > 1 || name.len() == 1 {
                    format!("-{name}")
                } else {
                    format!("--{name}")
                }
            })
            .collect();
        let mut left = names.join(", ");
        if !flag.value.is_empty() {
            left.push_str(&format!(" <{}>", flag.value));
        }
        text.push_str(&format!("  {left:<42} {}\n", flag.help));
    }
    text
}

/// The text of `--help_tls`.
pub fn help_tls() -> String {
    let (ciphers, curves) = tls::known_names();
    let list = |names: &[&str]| names.iter().map(|name| format!("  {name}\n")).collect::<String>();
    format!(
        "TLS is set up in the configuration file:\n\n\
         tls {{\n\
         \x20 cert_file: \"server-cert.pem\"\n\
         \x20 key_file: \"server-key.pem\"\n\
         \x20 ca_file: \"ca.pem\"    # checks clients' certificates\n\
         \x20 verify: true         # demands them\n\
         \x20 verify_and_map: true # and takes the user from them\n\
         }}\n\n\
         Names for cipher_suites:\n{}\nNames for curve_preferences:\n{}",
        list(&ciphers),
        list(curves)
    )
}
