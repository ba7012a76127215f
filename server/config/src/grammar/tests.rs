use std::path::Path;

use super::*;

fn parse(text: &str) -> Map {
    match Config::parse_text(text) {
        Ok(config) => config.root,
        Err(error) => panic!("{text:?}: {error}"),
    }
}

fn refused(text: &str) -> String {
    match Config::parse_text(text) {
        Ok(config) => panic!("{text:?} was read as {:?}", config.root),
        Err(error) => error.to_string(),
    }
}

fn value(text: &str) -> Value {
    parse(text).find("a").unwrap_or_else(|| panic!("{text:?} has no a")).value.clone()
}

fn string(text: &str) -> Value {
    Value::String(text.into())
}

#[test]
fn keys_and_values_may_be_joined_in_three_ways() {
    for text in [
        "a = 1",
        "a: 1",
        "a 1",
        "a=1",
        "\"a\" : 1",
        "'a' 1",
        "a: 1;",
        "a: 1,",
        "{\"a\": 1}",
        "a\n: 1",
        "a\n1",
        "{ a: 1 }\n",
    ] {
        assert_eq!(value(text), Value::Integer(1), "{text:?}");
    }
}

#[test]
fn scalars_are_told_apart_as_nats_server_does() {
    for (text, wanted) in [
        ("4222", Value::Integer(4222)),
        ("-1", Value::Integer(-1)),
        ("1k", Value::Integer(1_000)),
        ("1K", Value::Integer(1_000)),
        ("1kb", Value::Integer(1_024)),
        ("1ki", Value::Integer(1_024)),
        ("1KiB", Value::Integer(1_024)),
        ("2m", Value::Integer(2_000_000)),
        ("2MB", Value::Integer(2 << 20)),
        ("3g", Value::Integer(3_000_000_000)),
        ("3GB", Value::Integer(3 << 30)),
        ("4t", Value::Integer(4_000_000_000_000)),
        ("4tib", Value::Integer(4 << 40)),
        ("5p", Value::Integer(5_000_000_000_000_000)),
        ("5PB", Value::Integer(5 << 50)),
        ("6e", Value::Integer(6_000_000_000_000_000_000)),
        ("6EiB", Value::Integer(6 << 60)),
        ("-2k", Value::Integer(-2_000)),
        ("1.5", Value::Float(1.5)),
        ("-1.5", Value::Float(-1.5)),
        ("true", Value::Boolean(true)),
        ("On", Value::Boolean(true)),
        ("YES", Value::Boolean(true)),
        ("false", Value::Boolean(false)),
        ("off", Value::Boolean(false)),
        ("no", Value::Boolean(false)),
        ("10s", string("10s")),
        ("5m30s", string("5m30s")),
        ("0K1abc", string("0K1abc")),
        ("127.0.0.1", string("127.0.0.1")),
        ("127.0.0.1:4222", string("127.0.0.1:4222")),
        ("0.0.0.0:-1", string("0.0.0.0:-1")),
        ("localhost:4222", string("localhost:4222")),
        ("nats://a:b@host:6222/x#y", string("nats://a:b@host:6222/x#y")),
        (
            "$2a$11$W2zko751KUvVy59mUTWmpOdWjpEm5qhcCZRd05GjI/sSOT.xtiHyG",
            string("$2a$11$W2zko751KUvVy59mUTWmpOdWjpEm5qhcCZRd05GjI/sSOT.xtiHyG"),
        ),
        ("'it # is; {quoted}'", string("it # is; {quoted}")),
        (
            "\"tab\\t quote\\\" back\\\\ hex\\x41 umlaut\\xc3\\xa4\"",
            string("tab\t quote\" back\\ hexA umlautä"),
        ),
        ("un\\x41quoted", string("unAquoted")),
        ("1'", string("1'")),
        ("1\\n2", string("1\\n2")),
        ("'true'", string("true")),
        ("\"12\"", string("12")),
        ("2016-05-04T18:53:41Z", Value::Date("2016-05-04T18:53:41Z".into())),
        ("(\nfirst ) second\n  third\n)\n", string("\nfirst ) second\n  third\n")),
    ] {
        assert_eq!(value(&format!("a: {text}")), wanted, "{text}");
    }
    assert_eq!(value("a="), string(""));
}

#[test]
fn maps_arrays_and_comments_nest() {
    let root = parse(
        "# first\n// second\na { # third\n b: [1, 2 // fourth\n 3\n  # fifth\n], c { d: e; f: 'g', h 1.0 }\n}\n\
         list = [ {x: 1}, {x: 2}, [], {} ]\n",
    );
    let Some(Value::Map(a)) = root.find("a").map(|n| &n.value) else { panic!() };
    let Some(Value::Array(b)) = a.find("b").map(|n| &n.value) else { panic!() };
    assert_eq!(b.len(), 3);
    let Some(Value::Map(c)) = a.find("c").map(|n| &n.value) else { panic!() };
    assert_eq!((c.len(), c.find("h").map(|n| n.value.clone())), (3, Some(Value::Float(1.0))));
    let Some(Value::Array(list)) = root.find("list").map(|n| &n.value) else { panic!() };
    assert_eq!(list.len(), 4);
}

#[test]
fn json_is_a_configuration() {
    let root = parse(
        "{\n  \"port\": 4222,\n  \"cluster\": {\"name\": \"x\", \"routes\": [\"a\", \"b\"]},\n  \"on\": true\n}\n",
    );
    assert_eq!(root.len(), 3);
    assert_eq!(root.find("on").map(|n| &n.value), Some(&Value::Boolean(true)));
    assert_eq!(parse("{\"t\": [1,2,3]}").find("t").map(|n| n.value.kind()), Some("an array"));
}

#[test]
fn a_key_may_hold_quotes_of_both_kinds() {
    let config = Config::parse_text("x\"y'z: 1").unwrap();
    assert_eq!(Config::parse_text(&config.render()), Ok(config));
}

#[test]
fn a_key_written_twice_keeps_its_last_value() {
    assert_eq!(value("a: 1\na: 2"), Value::Integer(2));
}

#[test]
fn variables_come_from_the_block_then_from_around_it_then_from_the_environment() {
    let environment = |name: &str| match name {
        "OUTSIDE" => Some("42".to_string()),
        "WORDS" => Some("\"two words\"".to_string()),
        "INNER" => Some("$OUTSIDE".to_string()),
        "LOOP" => Some("$LOOP".to_string()),
        "BROKEN" => Some("[1".to_string()),
        _ => None,
    };
    let read = |text: &str| Config::parse("<t>", text.as_bytes(), &NoFiles, &environment);
    let root = read("x: 1\nb { x: 2, y: $x }\na: [$x, $OUTSIDE, $WORDS, $INNER]\n").map(|c| c.root).unwrap();
    let Some(Value::Array(a)) = root.find("a").map(|n| &n.value) else { panic!() };
    let values: Vec<&Value> = a.iter().map(|n| &n.value).collect();
    assert_eq!(values, [&Value::Integer(1), &Value::Integer(42), &string("two words"), &Value::Integer(42)]);
    let Some(Value::Map(b)) = root.find("b").map(|n| &n.value) else { panic!() };
    assert_eq!(b.find("y").map(|n| &n.value), Some(&Value::Integer(2)));
    assert!(root.find("x").is_some_and(|n| n.is_variable));

    let missing = read("\n  a: $NOWHERE").unwrap_err().to_string();
    assert!(
        missing.starts_with("<t>:2:6: variable reference for 'NOWHERE' on line 2 can not be found"),
        "{missing}"
    );
    assert!(read("a: $LOOP").unwrap_err().to_string().contains("variable reference cycle for 'LOOP'"));
    assert!(read("a: $BROKEN").unwrap_err().to_string().contains("could not be parsed"));
}

#[test]
fn includes_are_relative_to_the_file_that_names_them() {
    let loader = |path: &Path| match path.to_str() {
        Some("etc/nats.conf") => {
            Ok(b"include conf.d/a.conf\na { include 'conf.d/b.conf'\n z: 1 }\n".to_vec())
        }
        Some("etc/conf.d/a.conf") => Ok(b"port: 1\ninclude \"../c.conf\"".to_vec()),
        Some("etc/conf.d/b.conf") => Ok(b"y: 2\n".to_vec()),
        Some("etc/c.conf") => Ok(b"\n\nhost: h".to_vec()),
        Some("loop.conf") => Ok(b"include ./x/../loop.conf".to_vec()),
        _ => Err("no such file or directory".to_string()),
    };
    let none = |_: &str| None;
    let root = Config::load(Path::new("etc/nats.conf"), &loader, &none).unwrap().root;
    assert_eq!(root.find("port").map(|n| &n.value), Some(&Value::Integer(1)));
    assert_eq!(root.find("host").map(|n| n.position.to_string()), Some("etc/c.conf:3:1".into()));
    let Some(Value::Map(a)) = root.find("a").map(|n| &n.value) else { panic!() };
    assert_eq!(a.len(), 2);

    let cycle = Config::load(Path::new("loop.conf"), &loader, &none).unwrap_err().to_string();
    assert!(cycle.contains("includes itself"), "{cycle}");
    let missing =
        Config::parse("x/y.conf", b"\ninclude ../gone.conf", &loader, &none).unwrap_err().to_string();
    assert!(
        missing.starts_with("x/y.conf:2:1: error parsing include file '../gone.conf': no such file"),
        "{missing}"
    );
    let unread = Config::load(Path::new("none.conf"), &loader, &none).unwrap_err();
    assert_eq!(unread.to_string(), "error opening config file: none.conf: no such file or directory");
}

#[test]
fn syntax_errors_name_their_place() {
    for (text, wanted) in [
        ("a", "<text>:1:1: the key \"a\" has no value"),
        ("a =\n", "<text>:1:4: expected a value for \"a\" on this line"),
        ("= 1", "<text>:1:1: expected a key, found the separator '='"),
        ("/ a 1", "<text>:1:1: expected a key, found '/'"),
        ("a { /b 1 }", "<text>:1:5: expected a key, found '/'"),
        ("a 1 b", "<text>:1:5: expected the value to end"),
        ("a [1, 2", "<text>:1:3: '[' opened here is never closed"),
        ("a [1 2]", "<text>:1:6: expected ',' or ']' in an array, found '2'"),
        ("a [,]", "<text>:1:4: expected an array's value"),
        ("x\n{\n  a: 1\n", "<text>:2:1: '{' opened here is never closed"),
        ("{ a: 1\n", "<text>:1:1: '{' opened here is never closed"),
        ("a { b: }", "<text>:1:5: the key \"b\" has no value"),
        ("a { b ]", "<text>:1:7: expected the value to end"),
        ("a \"x", "<text>:1:3: a string opened here is never closed"),
        ("a 'x", "<text>:1:3: a string opened here is never closed"),
        ("a \"\\q\"", "<text>:1:4: invalid escape"),
        ("a \"\\xg0\"", "<text>:1:4: expected two hexadecimal digits"),
        ("a (\nx", "<text>:1:3: a block opened here is never closed"),
        ("a 1kbb", "<text>:1:7: '1kbb' has no unit"),
        ("a 99999999999999999999", "integer '99999999999999999999' is out of the range"),
        ("a 10e", "integer '10e' is out of the range"),
        ("a .5", "<text>:1:3: a number must start with a digit"),
        ("a 1.x", "expected a digit after '.'"),
        ("a -x", "expected a digit after '-'"),
        ("a 2016-13-04T18:53:41Z", "there is no such moment"),
        ("a 2016-1-04", "a date must be written in full"),
        ("a 1.5s", "<text>:1:6: expected the value to end"),
        ("include", "the key \"include\" has no value"),
        ("include [", "expected a file's path after include"),
        ("include x.conf", "error parsing include file 'x.conf': includes are not allowed here"),
        ("'a", "<text>:1:1: a quoted key opened here is never closed"),
        ("a b\0c", "a NUL byte"),
    ] {
        let error = refused(text);
        assert!(error.contains(wanted), "{text:?}: {error}");
    }
}

#[test]
fn size_and_depth_are_bounded() {
    assert!(refused("a [").contains("never closed"));
    assert!(refused(&format!("a {}", "[".repeat(100_000))).contains("nested deeper"));
    assert!(refused(&"a {".repeat(100_000)).contains("nested deeper"));
    assert!(refused(&"{".repeat(100_000)).contains("nested deeper"));
    let mut tower = String::from("v0: [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let below = format!("$v{},", level - 1).repeat(10);
        tower.push_str(&format!("v{level}: [{below}]\n"));
    }
    assert!(refused(&tower).contains("too large"));
    let long = "x".repeat(1_000_000);
    let many = "$v,".repeat(100);
    assert!(refused(&format!("v: {long}\na: [{many}]")).contains("too large"));
}

#[test]
fn text_that_is_not_utf8_is_read_with_a_warning() {
    let config = Config::parse("f", b"# caf\xe9\na: 1\n", &NoFiles, &|_: &str| None).unwrap();
    assert_eq!(config.root.len(), 1);
    assert!(config.warnings.iter().any(|w| w.message.contains("not UTF-8")));
}

/// Digests printed by `nats-server -t -c FILE`, version 2.15.2.
#[test]
fn digests_are_those_of_nats_server() {
    for (text, digest) in [
        ("port = 70000\n", "sha256:46ef640b18e752b31deeb5c57c1d3f4678bb83528db9dbaa2db19f33a6cb2b81"),
        (
            "{ \"port\": 4222, \"server_tags\": [\"a\",\"<b>&\", \"\\t\\\"q\\\\ \\r\\n\"] }\n",
            "sha256:d799de9bf59d44be543173c31814ac774e9bcb75fbaaae8c74f73fe8e15c5750",
        ),
        (
            "server_name: \"ümlaut\u{2028}x\"\nmax_payload: 1MB\n# comment\ndebug: no\n",
            "sha256:2c7bf3b651938843599e480edb9fc5caf3eaef3c1ea35c05b6567844509d45b4",
        ),
        (
            "cluster { name: C, port: 6222, routes: [\n nats://a:b@h:6222\n nats://h2:6222 ] }\nserver_tags: []\nserver_metadata {}\n",
            "sha256:e5eb8a7e0908828b32226c424ee20a62fcb5b99cc6905c6ae3a931d8556d3beb",
        ),
        (
            "server_metadata { z: \"1\", a: \"2\", M: \"3\", ä: \"4\" }\n",
            "sha256:af9989728f5cac44bbc566bad93200267e4f5e86b70b4437ab95cd58115b0402",
        ),
        (
            "server_name: \"\\x01\\x1f\\x7f\\x08\\x0c\"\n",
            "sha256:0ac41ec71f248d4e67b03a0057d3b03ff56dfa8e89f75110d2d06669fb92d94a",
        ),
    ] {
        assert_eq!(Config::parse_text(text).unwrap().digest(), digest, "{text}");
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn node(value: Value) -> Node {
        let position = crate::error::Position { file: "".into(), line: 1, column: 1 };
        Node { value, position, is_variable: false }
    }

    fn scalar_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<String>().prop_map(Value::String),
            "[a-z$0-9.:/{}#-]{0,12}".prop_map(Value::String),
            any::<i64>().prop_map(Value::Integer),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::Float),
            any::<bool>().prop_map(Value::Boolean),
            Just(Value::Date("2016-02-29T23:59:59Z".into())),
        ]
    }

    fn any_value() -> impl Strategy<Value = Value> {
        scalar_value().prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone().prop_map(node), 0..6).prop_map(Value::Array),
                any_map(inner).prop_map(Value::Map),
            ]
        })
    }

    fn any_map(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Map> {
        let key = prop_oneof!["[a-z_]{1,10}", "[^\"\0]{1,10}", Just("include".to_string())];
        prop::collection::vec((key, inner), 0..6).prop_map(|entries| {
            let mut map = Map::default();
            for (key, value) in entries {
                map.insert(key, node(value));
            }
            map
        })
    }

    /// Bytes that come close to the grammar reach further than random ones.
    fn almost() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[a-z]{1,4}",
            Just("\n".into()),
            Just(" ".into()),
            "[{}()\\[\\],;:=#'\"\\\\$./-]",
            "[0-9]{1,4}",
            Just("include ".into()),
            Just("\\x4".into()),
            Just("2016-01-01T".into()),
            Just("1.2.3".into()),
            Just("1kb".into()),
            Just("ä".into()),
            Just("\u{a0}".into()),
            Just("\0".into()),
            Just("(\n".into()),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces: Vec<String>| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn what_is_rendered_reads_back(root in any_map(any_value())) {
            let config = Config { root, warnings: Vec::new() };
            let text = config.render();
            let back = Config::parse_text(&text);
            prop_assert!(back.is_ok(), "{}\n{:?}", text, back);
            prop_assert_eq!(back.unwrap(), config, "{}", text);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Config::parse("f", &bytes, &NoFiles, &|_: &str| Some("1".into()));
        }

        #[test]
        fn nothing_close_to_the_grammar_panics(text in almost()) {
            if let Ok(config) = Config::parse("f", text.as_bytes(), &NoFiles, &|_: &str| Some("1".into())) {
                let _ = config.digest();
                let _ = crate::Settings::from_config(&config);
            }
        }
    }
}
