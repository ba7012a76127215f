//! Auth callout: a service in an account decides who clients are.

mod support;

use nkeys::{KeyPair, XKey};
use node::Server;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};
use support::{PATIENCE, Peer, World, mint, start, user_token};

/// What a service was asked, and what it says to that.
struct Asked {
    claims: Value,
    server_id: String,
    user_key: String,
}

impl Asked {
    fn of(payload: &[u8]) -> Asked {
        let text = String::from_utf8(payload.to_vec()).unwrap();
        let claims: Value = accounts::jwt::payload(&text).expect("the request's signature holds");
        let text =
            |pointer: &str| claims.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        Asked { server_id: text("/nats/server_id/id"), user_key: text("/nats/user_nkey"), claims }
    }

    fn answer(&self, signer: &KeyPair, nats: Value) -> String {
        mint(signer, &self.user_key, "authorization_response", nats, json!({"aud": self.server_id}))
    }

    /// Lets the client in to `account` (its name, without operators).
    fn let_in(&self, signer: &KeyPair, account: &str, name: &str) -> String {
        let extra = json!({"aud": account, "name": name});
        let user = json!({"subs": -1, "data": -1, "payload": -1});
        let jwt = mint(signer, &self.user_key, "user", user, extra);
        self.answer(signer, json!({"jwt": jwt}))
    }
}

/// Runs a service on a connection that is logged in; `answer` gets headers and payload.
fn serve(
    stream: TcpStream,
    mut answer: impl FnMut(&[u8], &[u8]) -> Vec<u8> + Send + 'static,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut stream = std::io::BufReader::new(stream);
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(1) => line.push(byte[0]),
                    _ => return,
                }
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            let parts: Vec<&str> = line.split_whitespace().collect();
            let (reply, header, total) = match parts[..] {
                ["MSG", _, _, reply, size] => (reply, 0, size.parse::<usize>().unwrap()),
                ["HMSG", _, _, reply, header, total] => {
                    (reply, header.parse().unwrap(), total.parse().unwrap())
                }
                ["PING"] => {
                    stream.get_mut().write_all(b"PONG\r\n").unwrap();
                    continue;
                }
                _ => continue,
            };
            let mut body = vec![0; total + 2];
            stream.read_exact(&mut body).unwrap();
            let answer = answer(&body[..header], &body[header..total]);
            let head = format!("PUB {reply} {}\r\n", answer.len());
            stream.get_mut().write_all(&[head.as_bytes(), &answer, b"\r\n"].concat()).unwrap();
        }
    })
}

fn service_connection(server: &Server, connect: impl FnOnce(&str) -> Value) -> TcpStream {
    let url = server.client_url();
    let mut stream = TcpStream::connect(url.strip_prefix("nats://").unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut info = vec![0; 4096];
    let count = stream.read(&mut info).unwrap();
    let info: Value = serde_json::from_slice(&info[5..count]).unwrap();
    let mut fields = connect(info["nonce"].as_str().unwrap_or_default());
    fields["verbose"] = false.into();
    fields["headers"] = true.into();
    stream.write_all(format!("CONNECT {fields}\r\nSUB $SYS.REQ.USER.AUTH 1\r\nPING\r\n").as_bytes()).unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"PONG\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        got.push(byte[0]);
    }
    stream
}

/// A server whose service lives in the account AUTH, and asks `decide`. Requests go to the receiver too.
fn configured(
    more: &str,
    issuer: &KeyPair,
    mut decide: impl FnMut(&Asked) -> String + Send + 'static,
) -> (Server, Receiver<Value>) {
    let server = start(&format!(
        "accounts {{ AUTH: {{ users: [{{user: auth, password: auth}}] }}, APP: {{ users: [{{user: known, password: p}}] }}, SYS: {{}} }}
         system_account: SYS
         authorization {{ timeout: 1, auth_callout {{ issuer: {}, account: AUTH, auth_users: [auth], {more} }} }}",
        issuer.public_key()
    ));
    let (sender, asked) = channel();
    let stream = service_connection(&server, |_| json!({"user": "auth", "pass": "auth"}));
    serve(stream, move |_, payload| {
        let request = Asked::of(payload);
        let _ = sender.send(request.claims.clone());
        decide(&request).into_bytes()
    });
    (server, asked)
}

fn outcome(server: &Server, fields: Value) -> String {
    let mut peer = Peer::new(server);
    peer.connect(fields);
    peer.until("\r\n")
}

#[test]
fn the_service_is_asked_what_the_client_sent_and_says_which_account_it_gets() {
    let issuer = KeyPair::new_account();
    let signer = KeyPair::from_seed(&issuer.seed().unwrap()).unwrap();
    let (server, asked) = configured("", &issuer, move |asked| asked.let_in(&signer, "APP", "ann"));
    let mut ann = Peer::new(&server);
    ann.connect(json!({"user": "ann", "pass": "secret", "name": "her"}));
    assert_eq!(ann.until("\r\n"), "PONG\r\n");
    let claims = asked.recv_timeout(PATIENCE).unwrap();
    assert_eq!(claims["aud"], "nats-authorization-request");
    assert_eq!(claims["iss"], claims["nats"]["server_id"]["id"]);
    assert_eq!(claims["sub"], issuer.public_key());
    assert_eq!(claims["nats"]["type"], "authorization_request");
    let connect = &claims["nats"]["connect_opts"];
    assert_eq!(
        (&connect["user"], &connect["pass"], &connect["name"]),
        (&json!("ann"), &json!("secret"), &json!("her"))
    );
    assert_eq!(claims["nats"]["client_info"]["host"], "127.0.0.1");
    assert_eq!(server.monitor().account("APP").unwrap().client_connections, 1);
    // the known user of another account is asked about, too, the service's own is not
    assert_eq!(outcome(&server, json!({"user": "known", "pass": "p"})), "PONG\r\n");
    assert_eq!(asked.recv_timeout(PATIENCE).unwrap()["nats"]["connect_opts"]["user"], "known");
    let mut auth = Peer::new(&server);
    auth.connect(json!({"user": "auth", "pass": "auth"}));
    auth.until("PONG\r\n");
    auth.send("PUB $SYS.REQ.USER.AUTH 1\r\nx\r\n");
    let told = auth.until("\r\n");
    assert_eq!(told, "-ERR 'Permissions Violation for Publish to \"$SYS.REQ.USER.AUTH\"'\r\n");
    assert!(asked.try_recv().is_err());
}

#[test]
fn answers_of_others_for_others_and_refusals_let_nobody_in() {
    let issuer = KeyPair::new_account();
    let signer = KeyPair::from_seed(&issuer.seed().unwrap()).unwrap();
    let other = KeyPair::new_account();
    let (server, _asked) = configured("", &issuer, move |asked| {
        let user = asked.claims["nats"]["connect_opts"]["user"].as_str().unwrap().to_owned();
        let elsewhere = Asked {
            server_id: KeyPair::new_server().public_key(),
            claims: Value::Null,
            user_key: asked.user_key.clone(),
        };
        let somebody = Asked {
            user_key: KeyPair::new_user().public_key(),
            claims: Value::Null,
            server_id: asked.server_id.clone(),
        };
        match user.as_str() {
            "error" => asked.answer(&signer, json!({"error": "no"})),
            "forged" => asked.let_in(&other, "APP", ""),
            "replayed" => somebody.let_in(&signer, "APP", ""),
            "elsewhere" => elsewhere.let_in(&signer, "APP", ""),
            "nowhere" => asked.let_in(&signer, "NO", ""),
            "empty" => String::new(),
            "rubbish" => "eyJ.x.y".into(),
            _ => asked.let_in(&signer, "APP", ""),
        }
    });
    for user in ["error", "forged", "replayed", "elsewhere", "nowhere", "empty", "rubbish"] {
        assert_eq!(outcome(&server, json!({"user": user})), "-ERR 'Authorization Violation'\r\n", "{user}");
    }
    assert_eq!(outcome(&server, json!({"user": "good"})), "PONG\r\n");
}

#[test]
fn a_login_that_waits_holds_up_nobody_and_ends_with_its_time() {
    let issuer = KeyPair::new_account();
    let (server, asked) = configured("", &issuer, |_| {
        std::thread::sleep(std::time::Duration::from_secs(3));
        String::new()
    });
    let mut waiting = Peer::new(&server);
    waiting.connect(json!({"user": "x"}));
    asked.recv_timeout(PATIENCE).unwrap();
    // all workers go on
    for _ in 0..8 {
        assert_eq!(outcome(&server, json!({"user": "auth", "pass": "auth"})), "PONG\r\n");
    }
    assert_eq!(waiting.until_closed(), "-ERR 'Authorization Violation'\r\n");
}

#[test]
fn requests_and_answers_may_be_encrypted() {
    let (issuer, service_curve) = (KeyPair::new_account(), XKey::new());
    let public = service_curve.public_key();
    let server = start(&format!(
        "accounts {{ AUTH: {{ users: [{{user: auth, password: auth}}] }}, APP: {{}} }}
         authorization {{ timeout: 1, auth_callout {{ issuer: {}, account: AUTH, auth_users: [auth], xkey: {public} }} }}",
        issuer.public_key()
    ));
    let stream = service_connection(&server, |_| json!({"user": "auth", "pass": "auth"}));
    serve(stream, move |headers, payload| {
        let headers = String::from_utf8(headers.to_vec()).unwrap();
        let key = headers.split("Nats-Server-Xkey: ").nth(1).unwrap().trim();
        let server_curve = XKey::from_public_key(key).unwrap();
        assert!(!payload.starts_with(b"eyJ"));
        let asked = Asked::of(&service_curve.open(payload, &server_curve).unwrap());
        assert_eq!(asked.claims["nats"]["server_id"]["xkey"], key);
        service_curve.seal(asked.let_in(&issuer, "APP", "").as_bytes(), &server_curve).unwrap()
    });
    assert_eq!(outcome(&server, json!({"user": "ann"})), "PONG\r\n");
}

#[test]
fn with_operators_the_service_of_the_users_account_puts_it_into_an_allowed_one() {
    let world = World::default();
    let (service_user, target, closed) =
        (KeyPair::new_user(), KeyPair::new_account(), KeyPair::new_account());
    let nats = json!({"authorization": {"auth_users": [service_user.public_key()], "allowed_accounts": [target.public_key()]}});
    let account = world.account_token(nats);
    let (target_token, closed_token) = (
        world.account_token_of(&target, json!({}), json!({})),
        world.account_token_of(&closed, json!({}), json!({})),
    );
    let server =
        start(&world.config(
            "MEMORY",
            &[(&world.account, &account), (&target, &target_token), (&closed, &closed_token)],
        ));
    let service_jwt = user_token(&world.account, &service_user, json!({}), json!({}));
    let stream = service_connection(
        &server,
        |nonce| json!({"jwt": service_jwt, "sig": support::sign_text(&service_user, nonce)}),
    );
    let signer = KeyPair::from_seed(&world.account.seed().unwrap()).unwrap();
    let keys = [
        KeyPair::from_seed(&target.seed().unwrap()).unwrap(),
        KeyPair::from_seed(&closed.seed().unwrap()).unwrap(),
    ];
    serve(stream, move |_, payload| {
        let asked = Asked::of(payload);
        let into = &keys[usize::from(asked.claims["nats"]["connect_opts"]["name"] == "closed")];
        let user = json!({"subs": -1, "data": -1, "payload": -1});
        let jwt = mint(into, &asked.user_key, "user", user, json!({}));
        asked.answer(&signer, json!({"jwt": jwt})).into_bytes()
    });
    let sentinel = world.user_token(json!({"bearer_token": true}), json!({}));
    assert_eq!(outcome(&server, json!({"jwt": sentinel, "name": "open"})), "PONG\r\n");
    assert_eq!(
        outcome(&server, json!({"jwt": sentinel, "name": "closed"})),
        "-ERR 'Authorization Violation'\r\n"
    );
    assert!(server.monitor().account(&target.public_key()).is_some());
}
