//! After the API server was away.

use std::collections::BTreeSet;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use operator::controller::{self, Context};
use operator::metrics::Metrics;
use operator::validate::Defaults;
use serde_json::json;
use tokio::sync::{oneshot, watch};

/// What every watch is told once when the API server comes back.
fn unavailable() -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "starting",
        "reason": "ServiceUnavailable", "code": 503});
    let mut response = Response::new(Body::from(status.to_string().into_bytes()));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

fn list(items: &serde_json::Value) -> Response<Body> {
    let list =
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
    Response::new(Body::from(list.to_string().into_bytes()))
}

/// All watches share one pause; twelve errors with pauses that double took minutes.
#[tokio::test]
async fn an_error_of_every_watch_holds_nobody_up_for_long() {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let (reconciles, reconciled) = oneshot::channel();
    tokio::spawn(async move {
        let cluster = json!([{"apiVersion": "starling.dev/v1alpha1", "kind": "NatsCluster",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "1", "resourceVersion": "1"}, "spec": {}}]);
        let (mut refused, mut open, mut reconciles) = (BTreeSet::new(), Vec::new(), Some(reconciles));
        while let Some((request, send)) = handle.next_request().await {
            let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
            let lists_all = !path.contains("/namespaces/");
            if query.contains("watch=true") {
                open.push(send); // nothing happens any more
            } else if lists_all && refused.insert(format!("{path}?{query}")) {
                send.send_response(unavailable());
            } else if lists_all {
                let items = if path.ends_with("/natsclusters") { &cluster } else { &json!([]) };
                send.send_response(list(items));
            } else {
                // the first request about this cluster
                if let Some(reconciles) = reconciles.take() {
                    let _ = reconciles.send(refused.len());
                }
                send.send_response(unavailable());
            }
        }
    });
    let (_leads, leader) = watch::channel(true);
    let client = Client::new(service, "shop");
    let context = Context::new(client, Defaults::default(), Metrics::new(), leader);
    let (_stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(controller::run(context.into(), None, async move { drop(stopped.await) }));
    let refused = tokio::time::timeout(Duration::from_secs(20), reconciled).await;
    assert!(refused.expect("reconciled within 20 s").expect("asked") >= 10, "each watch was refused once");
}
