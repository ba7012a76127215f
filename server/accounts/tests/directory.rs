//! The full directory resolver: two servers, an operator and its tools.

use accounts::resolver::*;
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

const NOW: i64 = 1_795_262_400;

fn mint(pair: &KeyPair, subject: &str, nats: Value, issued_at: i64, id: &str) -> String {
    let encode = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let header = encode(json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let claims = json!({"iss": pair.public_key(), "sub": subject, "iat": issued_at, "jti": id, "nats": nats});
    let signed = format!("{header}.{}", encode(claims));
    let signature = BASE64URL_NOPAD.encode(&pair.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

fn account(operator: &KeyPair, key: &str, issued_at: i64) -> String {
    let limits = json!({"imports": -1, "exports": -1, "wildcards": true});
    let nats = json!({"type": "account", "version": 2, "limits": limits});
    mint(operator, key, nats, issued_at, &format!("id{issued_at}"))
}

fn directory(operator: &KeyPair, system: &str) -> Directory {
    let token = mint(operator, &operator.public_key(), json!({"type": "operator", "version": 2}), NOW, "o");
    Directory::new(&DirectorySettings {
        operator: token,
        system_account: Some(system.into()),
        allow_delete: true,
        tokens_max: 3,
    })
    .unwrap()
}

fn ask(directory: &mut Directory, subject: &str, payload: &str) -> Answer {
    directory.handle_request(&Request::parse(subject).unwrap(), payload.as_bytes(), NOW)
}

fn document(answer: &Answer) -> &Value {
    match &answer.replies[..] {
        [Reply::Document(document)] => document,
        other => panic!("{other:?}"),
    }
}

fn key() -> String {
    KeyPair::new_account().public_key()
}

#[test]
fn tokens_are_pushed_looked_up_listed_and_deleted() {
    let (operator, system, a) = (KeyPair::new_operator(), key(), key());
    let mut directory = directory(&operator, &system);
    let token = account(&operator, &a, NOW);
    let answer = ask(&mut directory, "$SYS.REQ.CLAIMS.UPDATE", &token);
    assert_eq!(document(&answer), &json!({"data": {"account": a, "code": 200, "message": "jwt updated"}}));
    assert_eq!(answer.changes, [Change::Stored { key: a.clone(), token: token.as_str().into() }]);
    // The same again is fine and changes nothing.
    assert_eq!(ask(&mut directory, &format!("$SYS.REQ.ACCOUNT.{a}.CLAIMS.UPDATE"), &token).changes, []);

    let lookup = ask(&mut directory, &format!("$SYS.REQ.ACCOUNT.{a}.CLAIMS.LOOKUP"), "");
    assert_eq!(lookup.replies, [Reply::Bytes(token.clone().into_bytes())]);
    let unknown = ask(&mut directory, &format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", key()), "");
    assert_eq!(unknown.replies, [Reply::Bytes(vec![])]);
    assert_eq!(document(&ask(&mut directory, "$SYS.REQ.CLAIMS.LIST", "")), &json!({"data": [a]}));

    let request = |pair: &KeyPair, list: Value| {
        mint(pair, &operator.public_key(), json!({"accounts": list, "version": 2}), NOW, "d")
    };
    let refused = |answer: &Answer| document(answer)["error"]["description"].as_str().unwrap().to_owned();
    let delete = |directory: &mut Directory, token: &str| ask(directory, "$SYS.REQ.CLAIMS.DELETE", token);
    let by_stranger = delete(&mut directory, &request(&KeyPair::new_operator(), json!([a])));
    assert!(refused(&by_stranger).ends_with("not self signed"));
    let stranger = KeyPair::new_operator();
    let own = mint(&stranger, &stranger.public_key(), json!({"accounts": [a], "version": 2}), NOW, "d");
    assert!(refused(&delete(&mut directory, &own)).ends_with("not trusted"));
    let answer = delete(&mut directory, &request(&operator, json!([system])));
    assert!(refused(&answer).ends_with("not allowed to delete system account"));
    assert!(
        refused(&delete(&mut directory, &request(&operator, json!(["../x"])))).ends_with("malformed request")
    );
    let answer = delete(&mut directory, &request(&operator, json!([a])));
    assert_eq!(answer.changes, [Change::Deleted { key: a }]);
    assert_eq!(document(&answer)["data"]["message"], "deleted 1 accounts");
    assert!(directory.is_empty());
    assert_eq!(directory.hash(), [0; 32]);
}

#[test]
fn only_tokens_of_the_operator_are_kept_and_only_so_many() {
    let (operator, a) = (KeyPair::new_operator(), key());
    let mut directory = directory(&operator, &key());
    let refusal = |answer: Answer| {
        assert_eq!(answer.changes, []);
        document(&answer)["error"]["description"].as_str().unwrap().to_owned()
    };
    let foreign = account(&KeyPair::new_operator(), &a, NOW);
    assert!(refusal(ask(&mut directory, "$SYS.REQ.CLAIMS.UPDATE", &foreign)).contains("trusted operator"));
    let good = account(&operator, &a, NOW);
    let other = format!("$SYS.ACCOUNT.{}.CLAIMS.UPDATE", key());
    assert!(refusal(ask(&mut directory, &other, &good)).ends_with("subject does not match jwt content"));
    assert!(refusal(ask(&mut directory, "$SYS.REQ.CLAIMS.UPDATE", "x")).contains("expected 3 chunks"));
    let nats = json!({"type": "account", "version": 2, "limits": {"imports": -1, "exports": -1, "wildcards": true},
        "mappings": {"a.*": [{"subject": "b.$2"}]}});
    let mapped = mint(&operator, &a, nats, NOW, "m");
    assert!(
        refusal(ask(&mut directory, "$SYS.REQ.CLAIMS.UPDATE", &mapped))
            .contains("wildcard index out of range")
    );
    assert!(directory.load("../../etc/passwd", &good).is_err());
    for _ in 0..3 {
        directory.load(&a, &good).unwrap();
        let another = key();
        let _ = directory.load(&another, &account(&operator, &another, NOW));
    }
    assert_eq!(directory.len(), 3);
    let late = account(&operator, &key(), NOW);
    assert!(refusal(ask(&mut directory, "$SYS.REQ.CLAIMS.UPDATE", &late)).ends_with("jwt store is full"));
}

#[test]
fn servers_become_alike_and_the_later_token_wins() {
    let (operator, system) = (KeyPair::new_operator(), key());
    let (a, b, c) = (key(), key(), key());
    let (mut left, mut right) = (directory(&operator, &system), directory(&operator, &system));
    left.load(&a, &account(&operator, &a, NOW)).unwrap();
    left.load(&b, &account(&operator, &b, NOW - 10)).unwrap();
    right.load(&b, &account(&operator, &b, NOW)).unwrap();
    right.load(&c, &account(&operator, &c, NOW)).unwrap();
    let sync = |from: &mut Directory, to: &mut Directory| {
        let answer = from.handle_request(&Request::Pack, &to.hash(), NOW);
        let mut changed = 0;
        for reply in &answer.replies {
            let Reply::Bytes(bytes) = reply else { panic!("{reply:?}") };
            let (changes, result) = to.handle_pack(bytes);
            result.unwrap();
            changed += changes.len();
        }
        assert_eq!(answer.replies.last(), Some(&Reply::Bytes(vec![])));
        (answer.replies.len(), changed)
    };
    assert_eq!(sync(&mut left, &mut right), (3, 1));
    assert_eq!(sync(&mut right, &mut left), (4, 2));
    assert_eq!(left.hash(), right.hash());
    assert_eq!(left.token(&b), right.token(&b));
    assert_eq!(sync(&mut right, &mut left), (1, 0));
    let (changes, result) = left.handle_pack(format!("{a}|junk\n").as_bytes());
    assert!(changes.is_empty() && result.is_err());
    assert!(left.handle_pack(b"no line").1.is_err());
    assert!(left.handle_pack(b"\xff").1.is_err());
}
