//! No bytes of a route's peer, before or after its handshake, make a server panic, reach a client malformed, or leave
//! interest behind when the route is gone.
#![no_main]

use broker::{Broker, CloseReason, LinkKind, Mailbox};
use cluster::{Effect, Identity, Mesh};
use engine::{Accepted, Hub, Outside, RouteOpening, Settings, Worker};
use libfuzzer_sys::fuzz_target;
use starling_fuzz::{NoBell, Written, check, feed};
use std::sync::Arc;
use std::time::Duration;

struct Nowhere;

impl Outside for Nowhere {
    fn effect(&self, _: Effect) {}
    fn used(&self) {}
}

const CONNECT: &[u8] = b"CONNECT {\"name\":\"NPEER\",\"cluster\":\"c\",\"headers\":true,\"lnoc\":true}\r\n";
const INFO: &[u8] = b"INFO {\"server_id\":\"NPEER\",\"server_name\":\"peer\",\"proto\":1,\"host\":\"10.0.0.2\",\
\"port\":6222,\"headers\":true,\"max_payload\":1048576,\"cluster\":\"c\",\"route_pool_size\":3}\r\n";

fuzz_target!(|data: &[u8]| {
    let [how, chunk, data @ ..] = data else { return };
    let broker = Broker::new(vec![Arc::new(Mailbox::new(Box::new(NoBell)))], 3);
    let identity = Identity {
        server_id: "NSELF".into(),
        server_name: "self".into(),
        headers: true,
        host: "0.0.0.0".into(),
        port: 6222,
        ..Identity::default()
    };
    let settings = cluster::Settings { cluster_name: Some("c".into()), ..cluster::Settings::default() };
    let mesh = Mesh::new(settings, identity, 5);
    let hub = Arc::new(Hub::new(broker.clone(), mesh, Box::new(Nowhere)).unwrap());
    let mut worker = Worker::new(0, broker.clone(), Arc::new(Settings::default()), 3);
    worker.join(hub.clone());
    hub.with(|mesh| mesh.start(Duration::from_nanos(1)));

    let (listener, heard) = (worker.next_token(), Written::default());
    worker.accept(
        Accepted::client(broker.next_id(), Box::new(heard.clone()), Default::default(), vec![]),
        1,
    );
    let hello = b"CONNECT {\"verbose\":false,\"headers\":true,\"protocol\":1}\r\nSUB > 1\r\nSUB a.* q 1\r\n";
    feed(&mut worker, listener, hello, 999);

    let route = worker.next_token();
    let opening = RouteOpening::Accepted { remote: "10.0.0.2:4000".parse().unwrap() };
    let accepted = Accepted {
        kind: LinkKind::Route,
        route: Some(opening),
        ..Accepted::client(broker.next_id(), Box::new(Written::default()), Default::default(), vec![])
    };
    if worker.accept(accepted, 1).is_some() {
        // most inputs begin behind the handshake, where there is more to break
        if how % 4 > 0 {
            feed(&mut worker, route, CONNECT, 999);
        }
        if how % 4 > 1 {
            feed(&mut worker, route, INFO, 999);
        }
        feed(&mut worker, route, data, *chunk as usize + 1);
    }
    feed(&mut worker, listener, b"PUB a.b 2\r\nhi\r\n", 999);
    for command in broker.mailboxes()[0].take() {
        worker.command(command);
    }
    worker.flush(true);
    check(&heard.0.lock().unwrap(), &[b"1"]);
    worker.close(route, CloseReason::ClientClosed);
    worker.close(listener, CloseReason::ClientClosed);
    for account in broker.accounts() {
        assert!(account.read(|interest| interest.is_empty()));
    }
    assert_eq!(hub.with_quietly(|mesh| mesh.connections().count()), 0);
});
