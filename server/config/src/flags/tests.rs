use super::*;
use crate::address::Port;
use crate::grammar::Config;
use crate::settings::Settings;

fn run(arguments: &[&str]) -> Flags {
    match Command::parse(arguments) {
        Ok(Command::Run(flags)) => *flags,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn refused(arguments: &[&str]) -> String {
    match Command::parse(arguments) {
        Err(error) => error.to_string(),
        Ok(command) => panic!("{arguments:?}: {command:?}"),
    }
}

/// Settings of a file with flags over it.
fn over(file: &str, arguments: &[&str]) -> Settings {
    let mut settings = Settings::from_config(&Config::parse_text(file).unwrap()).unwrap().settings;
    run(arguments).apply(&mut settings).unwrap();
    settings
}

fn apply_error(arguments: &[&str]) -> String {
    run(arguments).apply(&mut Settings::default()).unwrap_err().to_string()
}

#[test]
fn one_dash_or_two_and_both_value_forms_are_the_same() {
    for arguments in [
        &["-p", "5000"][..],
        &["--p", "5000"],
        &["-p=5000"],
        &["--port=5000"],
        &["-port", "5000"],
        &["-p", "1", "--port", "5000"],
        &["-p", "0x1388"],
    ] {
        assert_eq!(run(arguments).port, Some(5000), "{arguments:?}");
    }
    assert_eq!(run(&["-p", "-1"]).port, Some(-1));
    assert_eq!(run(&["-sd=/x"]).store_dir.as_deref(), Some("/x"));
    assert_eq!(run(&["--store_dir", "/x"]).store_dir.as_deref(), Some("/x"));
    assert_eq!(run(&["-D=false"]).debug, Some(false));
    assert_eq!(run(&["-D", "-T=F"]).logtime, Some(false));
    assert_eq!(run(&["--user", "", "--pass=a=b"]).password.as_deref(), Some("a=b"));
}

#[test]
fn every_name_of_every_flag_is_known() {
    for flag in FLAGS {
        for name in flag.names {
            let dashed = format!("-{name}");
            let arguments: Vec<&str> = match flag.kind {
                Kind::Boolean if *name == "t" => vec![&dashed, "-c", "x"],
                Kind::Boolean => vec![&dashed],
                Kind::Integer => vec![&dashed, "7"],
                Kind::Text if flag.id == "signal" => vec![&dashed, "ldm"],
                Kind::Text => vec![&dashed, "x"],
            };
            let command = Command::parse(&arguments).unwrap();
            if let Command::Run(flags) = command {
                assert_ne!(*flags, Flags::default(), "-{name} is read but has no effect");
            }
            assert!(help("starling-server").contains(name), "-{name} is not in the help");
        }
    }
}

#[test]
fn commands_are_told_apart_in_nats_servers_order() {
    assert_eq!(Command::parse(&["-v"]), Ok(Command::Version));
    assert_eq!(Command::parse(&["--version"]), Ok(Command::Version));
    assert_eq!(Command::parse(&["-h", "-v"]), Ok(Command::Version));
    assert_eq!(Command::parse(&["-h"]), Ok(Command::Help));
    assert_eq!(Command::parse(&["help"]), Ok(Command::Help));
    assert_eq!(Command::parse(&["-D", "Version"]), Ok(Command::Version));
    assert_eq!(Command::parse(&["--help_tls"]), Ok(Command::HelpTls));
    let signal =
        |kind, target: Option<&str>| Ok(Command::Signal(Signal { kind, target: target.map(str::to_string) }));
    assert_eq!(Command::parse(&["--signal", "ldm=123"]), signal(SignalKind::LameDuck, Some("123")));
    assert_eq!(Command::parse(&["--signal=reload"]), signal(SignalKind::Reload, None));
    assert_eq!(Command::parse(&["-sl", "stop=/run/x.pid"]), signal(SignalKind::Stop, Some("/run/x.pid")));
    assert!(run(&["-t", "-c", "x.conf"]).check_config);
}

#[test]
fn what_is_wrong_is_told_in_the_words_of_go_and_nats_server() {
    for (arguments, words) in [
        (&["-foo"][..], "flag provided but not defined: -foo"),
        (&["--clustr_name", "x"], "flag provided but not defined: -clustr_name; did you mean -cluster_name?"),
        (&["-p"], "flag needs an argument: -p"),
        (&["-p", "abc"], "invalid value \"abc\" for flag -p: parse error"),
        (&["-D=maybe"], "invalid boolean value \"maybe\" for -D: parse error"),
        (&["---p"], "bad flag syntax: ---p"),
        (&["-="], "bad flag syntax: -="),
        (&["run"], "unrecognized command: \"run\""),
        (&["-D", "true"], "unrecognized command: \"true\""),
        (&["-t"], "must specify [-c, --config] option to check configuration file syntax"),
        (&["-sl", "dance"], "unknown signal \"dance\""),
        (&["-sl", "stop=1=2"], "invalid signal parameters: [2]"),
    ] {
        let error = refused(arguments);
        assert!(error.starts_with(words), "{arguments:?}: {error}");
    }
}

#[test]
fn flags_override_the_file_also_with_false_and_empty() {
    let settings = over(
        "port: 5000, host: a, debug: true, trace: true, logtime: false, server_name: n, log_file: f\n\
         cluster { host: c, port: 6000, no_advertise: true, name: x, authorization { user: u, password: p } }",
        &[
            "-p",
            "0",
            "-D=false",
            "-DV=false",
            "-T",
            "-n",
            "",
            "-l",
            "g",
            "--no_advertise=false",
            "--cluster_name",
            "y",
        ],
    );
    assert_eq!((settings.port, settings.host.as_str()), (Port::Fixed(4222), "a"));
    assert!(!settings.logging.debug && !settings.logging.trace && settings.logging.logtime);
    assert_eq!((settings.server_name, settings.logging.log_file.as_deref()), (None, Some("g")));
    assert!(!settings.cluster.no_advertise);
    assert_eq!(settings.cluster.name.as_deref(), Some("y"));
    assert_eq!(settings.cluster.username.as_deref(), Some("u"), "only --cluster takes the file's user away");
}

#[test]
fn tags_of_the_command_line_join_those_of_the_file() {
    let tags = |file: &str, flag: &str| over(file, &["--server_tags", flag]).server_tags;
    assert_eq!(tags("server_tags: [ssd]", "az:EU-1a, ssd"), ["ssd", "az:eu-1a"]);
    assert_eq!(tags("server_tags: ssd", "az:"), ["ssd"], "nothing is known of the zone");
    assert_eq!(tags("", ""), Vec::<String>::new());
}

#[test]
fn trace_flags_set_all_that_they_name() {
    let log = |arguments: &[&str]| over("", arguments).logging;
    let levels = |l: &crate::settings::Logging| (l.debug, l.trace, l.trace_verbose);
    assert_eq!(levels(&log(&["-D"])), (true, false, false));
    assert_eq!(levels(&log(&["-V"])), (false, true, false));
    assert_eq!(levels(&log(&["-VV"])), (false, true, true));
    assert_eq!(levels(&log(&["-DV"])), (true, true, false));
    assert_eq!(levels(&log(&["-DVV"])), (true, true, true));
    assert_eq!(levels(&log(&["-D=false", "-DV"])), (true, true, false));
}

#[test]
fn the_cluster_flag_is_a_url() {
    let file =
        "cluster { host: c, port: 6000, authorization { user: u, password: p }, routes: [nats://x:1] }";
    let settings = over(file, &["--cluster", "nats://0.0.0.0:-1"]);
    assert_eq!((settings.cluster.host.as_str(), settings.cluster.port), ("0.0.0.0", Some(Port::Random)));
    assert_eq!((settings.cluster.username, settings.cluster.routes.len()), (None, 1));
    let settings =
        over(file, &["--cluster_listen=nats://a:b@[::1]:6222", "--routes", "nats://h:1, nats://u:v@i:2"]);
    assert_eq!((settings.cluster.host.as_str(), settings.cluster.port), ("::1", Some(Port::Fixed(6222))));
    assert_eq!(
        (settings.cluster.username.as_deref(), settings.cluster.password.as_deref()),
        (Some("a"), Some("b"))
    );
    assert_eq!(settings.cluster.routes.len(), 2);
    assert_eq!(over(file, &["--cluster", ""]).cluster.port, None);
    assert!(over(file, &["--routes="]).cluster.routes.is_empty());
    assert_eq!(
        apply_error(&["--routes", "nats://h:1"]),
        "solicited routes require cluster capabilities, e.g. --cluster"
    );
    assert!(apply_error(&["--cluster", "0.0.0.0:6222"]).contains("write a URL"));
    assert!(apply_error(&["--cluster", "nats://a@h:1"]).contains("expected cluster password to be set"));
    assert!(apply_error(&["--cluster", "nats://h:1", "--routes", "h:1"]).contains("error parsing route url"));
}

#[test]
fn tls_flags_need_certificate_and_key_and_can_switch_it_off() {
    let file = "tls { cert_file: a, key_file: b, timeout: 5 }";
    assert!(over(file, &["--tls=false"]).tls.is_none());
    assert!(over(file, &["--tls=false", "--tlscert", "x"]).tls.is_none());
    let tls = over(file, &["--tlsverify", "--tlscert=c", "--tlskey=d", "--tlscacert=e"]).tls.unwrap();
    assert_eq!(
        (tls.certificates[0].cert_file.as_str(), tls.ca_file.as_deref(), tls.verify),
        ("c", Some("e"), true)
    );
    assert_eq!(tls.timeout.as_secs(), 5);
    assert_eq!(apply_error(&["--tls"]), "TLS Server certificate must be present and valid");
    assert_eq!(apply_error(&["--tls", "--tlscert", "x"]), "TLS Server private key must be present and valid");
}

#[test]
fn jetstream_is_refused_but_its_directory_alone_is_not() {
    assert!(apply_error(&["-js"]).contains("not supported yet"));
    let mut settings = Settings::default();
    assert!(run(&["-js=false"]).apply(&mut settings).unwrap().is_empty());
    assert_eq!(run(&["-sd", "/tmp/x"]).apply(&mut settings).unwrap().len(), 1);
}

#[test]
fn ports_out_of_range_are_refused() {
    assert!(apply_error(&["-p", "70000"]).starts_with("-p: port 70000 is out of the range"));
    assert!(apply_error(&["-m", "-2"]).starts_with("-m: port -2"));
    assert_eq!(over("", &["-p", "-1", "-m", "-1"]).monitoring.http_port, Some(Port::Random));
}

#[test]
fn flags_that_are_applied_can_be_rendered() {
    let settings =
        over("", &["--user", "a", "--pass", "b", "-m", "8222", "-p", "-1", "--cluster", "nats://:6222"]);
    let text = crate::render(&settings);
    assert_eq!(
        Settings::from_config(&Config::parse_text(&text).unwrap()).unwrap().settings,
        settings,
        "{text}"
    );
}

proptest::proptest! {
    #[test]
    fn no_command_line_panics(arguments in proptest::collection::vec("-{0,3}[a-zA-Z_]{0,8}=?[a-z0-9:/@,.\\[\\]%-]{0,12}", 0..6)) {
        if let Ok(Command::Run(flags)) = Command::parse(&arguments) {
            let _ = flags.apply(&mut Settings::default());
        }
    }

    #[test]
    fn no_value_of_cluster_and_routes_panics(cluster in ".{0,30}", routes in ".{0,30}") {
        let flags = Flags { cluster_listen: Some(cluster), routes: Some(routes), ..Flags::default() };
        let _ = flags.apply(&mut Settings::default());
    }
}
