//! Account tokens that are pushed, looked up, listed and deleted while servers run, as nsc does it.

mod support;

use nkeys::KeyPair;
use node::Server;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use support::{Peer, World, eventually, mint, now_seconds, settings, start, user_token};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("starling-resolver-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Folder(path)
    }

    fn full(&self, more: &str) -> String {
        format!("{{ type: full, dir: {:?}, {more} }}", self.0.display().to_string())
    }

    fn cache(&self, more: &str) -> String {
        format!("{{ type: cache, dir: {:?}, {more} }}", self.0.display().to_string())
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }

    fn has(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A user of the system account, who asks.
struct Administrator(Peer);

impl Administrator {
    fn new(world: &World, server: &Server) -> Administrator {
        let mut peer = Peer::new(server);
        peer.login(&world.system_user_token(), &world.system_user);
        peer.until("PONG\r\n");
        peer.send("SUB answers 1\r\n");
        peer.sync();
        Administrator(peer)
    }

    /// The first answer.
    fn ask(&mut self, subject: &str, payload: &str) -> String {
        self.0.send(format!("PUB {subject} answers {}\r\n{payload}\r\n", payload.len()));
        let mut head = self.0.until("\r\n");
        if head == "PING\r\n" {
            // the server asks for a sign of life at any time
            head = self.0.until("\r\n");
        }
        assert!(head.starts_with("MSG answers 1 "), "{head}");
        let body = self.0.until("\r\n");
        body.trim_end().to_owned()
    }

    fn ask_document(&mut self, subject: &str, payload: &str) -> Value {
        serde_json::from_str(&self.ask(subject, payload)).unwrap()
    }
}

fn lets_in(server: &Server, account: &KeyPair) -> bool {
    let user = KeyPair::new_user();
    let mut peer = Peer::new(server);
    peer.login(&user_token(account, &user, json!({}), json!({})), &user);
    peer.until("\r\n") == "PONG\r\n"
}

#[test]
fn tokens_are_pushed_listed_looked_up_and_deleted_and_survive_a_restart() {
    let (world, folder) = (World::default(), Folder::new("one"));
    let config = world.config(&folder.full("allow_delete: true"), &[]);
    let server = start(&config);
    let mut admin = Administrator::new(&world, &server);
    assert!(!lets_in(&server, &world.account));
    let key = world.account.public_key();
    let token = world.account_token(json!({}));
    let answer = admin.ask_document("$SYS.REQ.CLAIMS.UPDATE", &token);
    assert_eq!(answer["data"], json!({"account": key, "code": 200, "message": "jwt updated"}));
    assert_eq!(answer["server"]["id"].as_str().unwrap().len(), 56);
    assert!(lets_in(&server, &world.account));
    assert_eq!(admin.ask(&format!("$SYS.REQ.ACCOUNT.{key}.CLAIMS.LOOKUP"), ""), token);
    let mut listed = admin.ask_document("$SYS.REQ.CLAIMS.LIST", "");
    let mut expected = vec![key.clone(), world.system.public_key()];
    expected.sort();
    listed["data"].as_array_mut().unwrap().sort_by_key(|key| key.to_string());
    assert_eq!(listed["data"], json!(expected));
    // somebody else's signature, and rubbish
    let forged = mint(&KeyPair::new_operator(), &key, "account", json!({}), json!({}));
    assert_eq!(admin.ask_document("$SYS.REQ.CLAIMS.UPDATE", &forged)["error"]["code"], 500);
    assert_eq!(admin.ask_document("$SYS.REQ.CLAIMS.UPDATE", "rubbish")["error"]["code"], 500);
    assert_eq!(admin.ask(&format!("$SYS.REQ.ACCOUNT.{key}.CLAIMS.LOOKUP"), ""), token);
    drop((admin, server));

    let server = start(&config);
    assert!(lets_in(&server, &world.account));
    let mut admin = Administrator::new(&world, &server);
    let mut inside = Peer::new(&server);
    inside.login(&world.user_token(json!({}), json!({})), &world.user);
    inside.until("PONG\r\n");
    let delete = |keys: Vec<String>| {
        let operator = world.operator.public_key();
        mint(&world.operator, &operator, "generic", json!({"accounts": keys}), json!({}))
    };
    let answer = admin.ask_document("$SYS.REQ.CLAIMS.DELETE", &delete(vec![world.system.public_key()]));
    assert!(
        answer["error"]["description"].as_str().unwrap().ends_with("not allowed to delete system account")
    );
    let answer = admin.ask_document("$SYS.REQ.CLAIMS.DELETE", &delete(vec![key.clone()]));
    assert_eq!(answer["data"]["message"], "deleted 1 accounts");
    assert!(inside.until_closed().ends_with("-ERR 'Account Authentication Expired'\r\n"));
    assert!(!lets_in(&server, &world.account));
    assert!(!folder.has(&format!("{key}.jwt")) && folder.has(&format!("{key}.jwt.deleted")));
}

#[test]
fn a_pushed_token_reaches_clients_that_are_in() {
    let (world, folder) = (World::default(), Folder::new("live"));
    let server = start(&world.config(&folder.full(""), &[(&world.account, &world.account_token(json!({})))]));
    let mut admin = Administrator::new(&world, &server);
    let mut inside = Peer::new(&server);
    inside.login(&world.user_token(json!({}), json!({})), &world.user);
    inside.until("PONG\r\n");
    let nats = json!({"revocations": {world.user.public_key(): now_seconds() + 60}});
    let update = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", world.account.public_key());
    assert_eq!(admin.ask_document(&update, &world.account_token(nats))["data"]["code"], 200);
    assert!(inside.until_closed().ends_with("-ERR 'User Authentication Revoked'\r\n"));
}

#[test]
fn servers_of_a_cluster_come_to_hold_the_same_tokens() {
    let world = World::default();
    let (one, two) = (Folder::new("first"), Folder::new("second"));
    let cluster = |folder: &Folder, routes: &str| {
        let config = world.config(&folder.full("interval: \"1s\""), &[]);
        start(&format!(
            "{config}\ncluster {{ name: c, listen: \"127.0.0.1:-1\", no_advertise: true, routes: [{routes}] }}"
        ))
    };
    let first = cluster(&one, "");
    let mut admin = Administrator::new(&world, &first);
    // known to the first server before the second one comes
    let early = world.account_token(json!({}));
    assert_eq!(admin.ask_document("$SYS.REQ.CLAIMS.UPDATE", &early)["data"]["code"], 200);
    let port = first.monitor().varz().cluster.cluster_port;
    let second = cluster(&two, &format!("\"nats-route://127.0.0.1:{port}\""));
    eventually("the servers are joined", || second.monitor().varz().remotes == 1);
    eventually("a login fetches the token from the other server", || lets_in(&second, &world.account));
    // pushed to both
    let other = KeyPair::new_account();
    let token = world.account_token_of(&other, json!({}), json!({}));
    assert_eq!(admin.ask_document("$SYS.REQ.CLAIMS.UPDATE", &token)["data"]["code"], 200);
    eventually("both have the file", || two.has(&format!("{}.jwt", other.public_key())));
    // lost by one, and brought back by comparing
    let third = KeyPair::new_account();
    let token = world.account_token_of(&third, json!({}), json!({}));
    let name = format!("{}.jwt", third.public_key());
    drop(second);
    assert_eq!(admin.ask_document("$SYS.REQ.CLAIMS.UPDATE", &token)["data"]["code"], 200);
    let second = cluster(&two, &format!("\"nats-route://127.0.0.1:{port}\""));
    eventually("the comparison brings what was missed", || two.has(&name));
    drop((second, first));
}

/// A server whose resolver is this, in a cluster with the one that listens for routes at `port`.
fn join(world: &World, resolver: &str, port: Option<u16>) -> Server {
    let routes = port.map_or_else(String::new, |port| format!("\"nats-route://127.0.0.1:{port}\""));
    let config = world.config(resolver, &[]);
    let server = start(&format!(
        "{config}\ncluster {{ name: c, listen: \"127.0.0.1:-1\", no_advertise: true, routes: [{routes}] }}"
    ));
    if port.is_some() {
        eventually("the servers are joined", || server.monitor().varz().remotes == 1);
        let system = world.system.public_key();
        eventually("the system account has a route of its own, under the operator's name for it", || {
            let routes = server.monitor().routes(false).routes;
            routes.iter().any(|route| route.account == system)
        });
    }
    server
}

#[test]
fn a_cache_fetches_what_is_used_keeps_the_newest_and_hears_of_updates() {
    let world = World::default();
    let (all, some) = (Folder::new("all"), Folder::new("some"));
    let full = join(&world, &all.full(""), None);
    let accounts = [KeyPair::new_account(), KeyPair::new_account(), KeyPair::new_account()];
    let mut admin = Administrator::new(&world, &full);
    for account in &accounts {
        let token = world.account_token_of(account, json!({}), json!({}));
        assert_eq!(admin.ask_document("$SYS.REQ.CLAIMS.UPDATE", &token)["data"]["code"], 200);
    }
    let port = full.monitor().varz().cluster.cluster_port;
    let cache = join(&world, &some.cache("limit: 3"), Some(port));
    let file = |account: &KeyPair| format!("{}.jwt", account.public_key());
    let [first, second, third] = &accounts;
    assert!(!lets_in(&cache, &KeyPair::new_account()), "nobody has this account");
    eventually("its token is fetched from the server that has all", || lets_in(&cache, first));
    let mut inside = Peer::new(&cache);
    let user = KeyPair::new_user();
    inside.login(&user_token(first, &user, json!({}), json!({})), &user);
    inside.until("PONG\r\n");
    assert!(lets_in(&cache, second));
    assert!([first, second, &world.system].iter().all(|account| some.has(&file(account))));
    assert!(lets_in(&cache, third), "there is place for it, because another one goes");
    assert!([first, second, third].iter().all(|account| some.has(&file(account))));
    assert!(!some.has(&file(&world.system)), "it was unused for longest");
    // what is not used here is not kept here
    let token = world.account_token(json!({}));
    assert_eq!(admin.ask_document("$SYS.REQ.CLAIMS.UPDATE", &token)["data"]["code"], 200);
    eventually("the full directory has it", || all.has(&file(&world.account)));
    let token = world.account_token_of(first, json!({"revocations": {"*": now_seconds() + 60}}), json!({}));
    let mut admin = Administrator::new(&world, &full);
    assert_eq!(admin.ask_document("$SYS.REQ.CLAIMS.UPDATE", &token)["data"]["code"], 200);
    assert!(inside.until_closed().ends_with("-ERR 'User Authentication Revoked'\r\n"));
    assert!(!lets_in(&cache, first));
    assert_eq!(some.read(&file(first)), token, "an update takes nobody's place");
    assert!([second, third].iter().all(|account| some.has(&file(account))));
    assert!(!some.has(&file(&world.account)));
}

#[test]
fn a_cache_forgets_what_nobody_asks_for_and_a_full_directory_what_has_expired() {
    let world = World::default();
    let (all, some) = (Folder::new("ttl-all"), Folder::new("ttl-some"));
    let old = world.account_token_of(&KeyPair::new_account(), json!({}), json!({"exp": now_seconds() - 5}));
    let full = join(&world, &all.full(""), None);
    let mut admin = Administrator::new(&world, &full);
    let token = world.account_token(json!({}));
    assert_eq!(admin.ask_document("$SYS.REQ.CLAIMS.UPDATE", &token)["data"]["code"], 200);
    let port = full.monitor().varz().cluster.cluster_port;
    let name = format!("{}.jwt", world.account.public_key());
    for _ in 0..2 {
        let cache = join(&world, &some.cache("ttl: \"1s\""), Some(port));
        assert!(!some.has(&name));
        eventually("a login fetches it", || lets_in(&cache, &world.account));
        assert_eq!(some.read(&name), token);
        eventually("it goes without being asked for", || !some.has(&name));
        assert!(lets_in(&cache, &world.account), "an account in use stays");
    }
    drop((admin, full));
    let expired = format!("{}.jwt", jwt_subject(&old));
    std::fs::write(all.0.join(&expired), &old).unwrap();
    let full = join(&world, &all.full(""), None);
    eventually("the file of an expired token goes", || !all.has(&expired));
    assert!(all.has(&name));
    drop(full);
}

fn jwt_subject(token: &str) -> String {
    let body = token.split('.').nth(1).unwrap();
    let claims = data_encoding::BASE64URL_NOPAD.decode(body.as_bytes()).unwrap();
    serde_json::from_slice::<Value>(&claims).unwrap()["sub"].as_str().unwrap().to_owned()
}

#[test]
fn a_server_with_tokens_in_memory_takes_pushed_ones_for_accounts_in_use() {
    let world = World::default();
    let server = start(&world.config("MEMORY", &[(&world.account, &world.account_token(json!({})))]));
    let mut admin = Administrator::new(&world, &server);
    let update = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", world.account.public_key());
    let nats = json!({"revocations": {"*": now_seconds() + 60}});
    let token = world.account_token(nats);
    assert_eq!(admin.ask_document(&update, &token)["data"]["message"], "jwt update skipped");
    assert!(lets_in(&server, &world.account));
    assert_eq!(admin.ask_document(&update, &token)["data"]["message"], "jwt updated");
    assert!(!lets_in(&server, &world.account));
}

/// A web server that has these files, each under its path, for as long as the test runs.
fn serve(files: Arc<Mutex<HashMap<String, String>>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while let Some(Ok(line)) =
                lines.next().filter(|line| !matches!(line, Ok(line) if line.is_empty()))
            {
                request += &line;
                request += "\n";
            }
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let files = files.lock().unwrap();
            let found = files.get(&path);
            let is_user = request.to_ascii_lowercase().contains("authorization: basic dtpw\n".trim_end());
            let (status, body) = match found {
                Some(body) if is_user => ("200 OK", body.as_str()),
                _ => ("404 Not Found", "no"),
            };
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    port
}

#[test]
fn tokens_come_from_a_web_server() {
    let world = World::default();
    let (key, system) = (world.account.public_key(), world.system.public_key());
    let end = now_seconds() + 3;
    let files = Arc::new(Mutex::new(HashMap::from([
        ("/jwt/v1/accounts/".to_owned(), String::new()),
        (
            format!("/jwt/v1/accounts/{key}"),
            world.account_token_of(&world.account, json!({}), json!({"exp": end})),
        ),
        (format!("/jwt/v1/accounts/{system}"), world.system_token()),
    ])));
    let port = serve(files.clone());
    let config = |path: &str| {
        let operator = world.operator_token();
        format!("operator: {operator}\nresolver: URL(http://u:p@127.0.0.1:{port}{path})\n")
    };
    let server = start(&config("/jwt/v1/accounts/"));
    assert!(lets_in(&server, &world.account));
    assert!(lets_in(&server, &world.system));
    assert!(!lets_in(&server, &KeyPair::new_account()));
    eventually("the token expires", || now_seconds() >= end);
    assert!(!lets_in(&server, &world.account));
    files.lock().unwrap().insert(format!("/jwt/v1/accounts/{key}"), world.account_token(json!({})));
    assert!(lets_in(&server, &world.account), "there is a newer token");
    let refused = Server::start(settings(&config("/elsewhere")));
    assert!(refused.is_err_and(|error| error.to_string().contains("404")), "nobody is home");
}
