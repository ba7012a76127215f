//! What the operator writes to an API server, by a scripted one: the promises about other people's objects.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::client::Body;
use operator::apply::{self, ApplyError, Known};
use operator::build::config::{Generation, Placement, Reload, render};
use operator::build::{self, SystemSecret};
use operator::certificates::{Asked, State, issue};
use operator::rollout::Observed;
use operator::validate::{Cluster, SelfSigned};
use serde_json::{Value, json};
use support::cluster;

/// An API server that holds objects by path, and notes every request.
#[derive(Clone, Default)]
struct Script {
    objects: Arc<Mutex<std::collections::BTreeMap<String, Value>>>,
    requests: Arc<Mutex<Vec<(Method, String, Value)>>>,
    /// Answers writes as an API server does that does not know the kind.
    unknown_kind: Arc<Mutex<bool>>,
    /// Refuses so many writes as invalid.
    invalid: Arc<Mutex<u32>>,
    /// Somebody's entry in a Service's ports, which apply leaves there.
    port: Arc<Mutex<Option<Value>>>,
}

impl Script {
    fn client(&self) -> Client {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let script = self.clone();
        tokio::spawn(async move {
            while let Some((request, send)) = handle.next_request().await {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.expect("body");
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let kind =
                    parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
                if kind.starts_with("application/merge-patch") {
                    script.port.lock().expect("lock").take();
                }
                send.send_response(script.answer(&parts.method, parts.uri.path(), body));
            }
        });
        Client::new(service, "shop")
    }

    fn answer(&self, method: &Method, path: &str, body: Value) -> Response<Body> {
        self.requests.lock().expect("lock").push((method.clone(), path.to_owned(), body.clone()));
        let mut objects = self.objects.lock().expect("lock");
        let (status, answer) = match *method {
            Method::GET => match objects.get(path) {
                Some(object) => (StatusCode::OK, object.clone()),
                None => (StatusCode::NOT_FOUND, failure(404, "NotFound")),
            },
            Method::PATCH if *self.unknown_kind.lock().expect("lock") => {
                (StatusCode::NOT_FOUND, failure(404, "NotFound"))
            }
            Method::PATCH if *self.invalid.lock().expect("lock") > 0 => {
                *self.invalid.lock().expect("lock") -= 1;
                (StatusCode::UNPROCESSABLE_ENTITY, failure(422, "Invalid"))
            }
            Method::PATCH => {
                let mut stored = body;
                if let Some(ports) = stored["spec"]["ports"].as_array_mut() {
                    ports.extend(self.port.lock().expect("lock").clone());
                }
                objects.insert(path.to_owned(), stored.clone());
                (StatusCode::OK, stored)
            }
            Method::DELETE => match objects.remove(path) {
                Some(object) => (StatusCode::OK, object),
                None => (StatusCode::NOT_FOUND, failure(404, "NotFound")),
            },
            _ => (StatusCode::METHOD_NOT_ALLOWED, failure(405, "MethodNotAllowed")),
        };
        let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
        *response.status_mut() = status;
        response
    }

    fn refuse_patches(&self) {
        *self.unknown_kind.lock().expect("lock") = true;
    }

    fn put(&self, path: &str, object: Value) {
        self.objects.lock().expect("lock").insert(path.to_owned(), object);
    }

    fn get(&self, path: &str) -> Option<Value> {
        self.objects.lock().expect("lock").get(path).cloned()
    }

    /// Methods and paths of everything but reads, since the last call.
    fn writes(&self) -> Vec<(Method, String, Value)> {
        let requests = std::mem::take(&mut *self.requests.lock().expect("lock"));
        requests.into_iter().filter(|(method, ..)| method != Method::GET).collect()
    }
}

fn failure(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code})
}

fn resources(cluster: &Cluster) -> build::Resources {
    let rendered = render(cluster, &Placement::in_pod(cluster), "secret", &[]).expect("renders");
    build::resources(cluster, &Generation::after(None, rendered, Reload::Impossible), None, 3)
}

const CONFIG: &str = "/api/v1/namespaces/shop/secrets/orders-config";
const SYSTEM: &str = "/api/v1/namespaces/shop/secrets/orders-system";
const STATEFUL_SET: &str = "/apis/apps/v1/namespaces/shop/statefulsets/orders";
const BUDGET: &str = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/orders";

#[tokio::test]
async fn everything_is_applied_once_and_only_drift_again() {
    let (script, cluster) = (Script::default(), cluster(json!({})));
    let client = script.client();
    let resources = resources(&cluster);
    apply::resources(&client, &cluster, &resources, &Known::default()).await.expect("applied");
    let writes = script.writes();
    assert_eq!(writes.len(), 7);
    assert!(writes.last().is_some_and(|(_, path, _)| path == STATEFUL_SET), "what pods need comes first");

    apply::resources(&client, &cluster, &resources, &Known::default()).await.expect("applied");
    assert_eq!(script.writes(), [], "nothing drifted");

    let mut set = script.get(STATEFUL_SET).expect("exists");
    set["spec"]["replicas"] = json!(9);
    script.put(STATEFUL_SET, set);
    apply::resources(&client, &cluster, &resources, &Known::default()).await.expect("applied");
    let writes = script.writes();
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].2["spec"]["replicas"], 3);
}

/// An object that was read a moment ago and is as it should be is not read again; one that is not, or is somebody
/// else's, is.
#[tokio::test]
async fn what_was_read_already_is_read_again_only_to_be_changed() {
    let (script, cluster) = (Script::default(), cluster(json!({})));
    let client = script.client();
    let resources = resources(&cluster);
    apply::resources(&client, &cluster, &resources, &Known::default()).await.expect("applied");
    let set = script.get(STATEFUL_SET).expect("exists");
    let look = async |set: &Value| {
        script.writes();
        let set: StatefulSet = serde_json::from_value(set.clone()).expect("a StatefulSet");
        let mut known = Known::default();
        known.add(Some(&set));
        apply::resources(&client, &cluster, &resources, &known).await.expect("applied");
        let requests = script.requests.lock().expect("lock");
        requests.iter().filter(|(_, path, _)| path == STATEFUL_SET).count()
    };
    assert_eq!(look(&set).await, 0, "as it should be");
    let mut drifted = set.clone();
    drifted["spec"]["replicas"] = json!(9);
    assert_eq!(look(&drifted).await, 1, "looked at again, and somebody has put it right meanwhile");
    let mut foreign = set;
    foreign["metadata"]["ownerReferences"][0]["uid"] = json!("theirs");
    assert_eq!(look(&foreign).await, 1);
}

/// Somebody gave our port another number, which by the rules of apply made it an entry of theirs.
#[tokio::test]
async fn an_entry_that_stands_in_the_way_of_ours_goes() {
    let (script, cluster) = (Script::default(), cluster(json!({})));
    let client = script.client();
    let resources = resources(&cluster);
    apply::resources(&client, &cluster, &resources, &Known::default()).await.expect("applied");
    let path = "/api/v1/namespaces/shop/services/orders";
    let good = script.get(path).expect("exists");
    let mut edited = good.clone();
    edited["spec"]["ports"][0]["port"] = json!(9999);
    script.put(path, edited);
    script.writes();
    *script.invalid.lock().expect("lock") = 1;
    apply::resources(&client, &cluster, &resources, &Known::default()).await.expect("applied");
    assert_eq!(script.writes().len(), 3, "refused, put back as a whole, applied");
    assert_eq!(script.get(path), Some(good));
    // What is refused all the same is told.
    script.objects.lock().expect("lock").remove(path);
    *script.invalid.lock().expect("lock") = 1;
    assert!(apply::resources(&client, &cluster, &resources, &Known::default()).await.is_err());
}

/// A port that somebody added: apply alone would leave it there for ever, and be repeated at each look.
#[tokio::test]
async fn an_entry_that_nobody_wants_goes() {
    let (script, cluster) = (Script::default(), cluster(json!({})));
    let client = script.client();
    let resources = resources(&cluster);
    apply::resources(&client, &cluster, &resources, &Known::default()).await.expect("applied");
    let path = "/api/v1/namespaces/shop/services/orders";
    let good = script.get(path).expect("exists");
    let theirs = json!({"name": "theirs", "port": 9999});
    let mut edited = good.clone();
    edited["spec"]["ports"].as_array_mut().expect("ports").push(theirs.clone());
    script.put(path, edited);
    *script.port.lock().expect("lock") = Some(theirs);
    script.writes();
    apply::resources(&client, &cluster, &resources, &Known::default()).await.expect("applied");
    assert_eq!(script.writes().len(), 3, "applied in vain, put back as a whole, applied");
    assert_eq!(script.get(path), Some(good));
    apply::resources(&client, &cluster, &resources, &Known::default()).await.expect("applied");
    assert_eq!(script.writes(), []);
}

/// Whatever somebody changes or takes away in an object of ours comes back, and so do lists; fields that they add are
/// theirs.
#[tokio::test]
async fn drift_is_repaired_in_every_kind_of_object() {
    let (script, cluster) = (Script::default(), cluster(json!({})));
    let client = script.client();
    let resources = resources(&cluster);
    let system = SystemSecret { route_password: "p".to_owned(), operator_seed: "s".to_owned() };
    let state = certificates();
    let apply_all = async || {
        apply::system(&client, &cluster, &system, &Known::default()).await.expect("applied");
        apply::certificates(&client, &cluster, &state, &Known::default()).await.expect("applied");
        apply::resources(&client, &cluster, &resources, &Known::default()).await.expect("applied");
    };
    apply_all().await;
    let paths: Vec<String> = script.writes().into_iter().map(|(_, path, _)| path).collect();
    assert_eq!(paths.len(), 10, "{paths:?}");
    for path in &paths {
        let good = script.get(path).expect("exists");
        let mut added = good.clone();
        added["metadata"]["annotations"]["theirs"] = json!("kept");
        script.put(path, added.clone());
        apply_all().await;
        assert_eq!((script.writes(), script.get(path)), (Vec::new(), Some(added)), "{path}");

        let mut edited = good.clone();
        edited["metadata"]["labels"]["app.kubernetes.io/managed-by"] = json!("somebody");
        for field in ["data", "spec"] {
            if let Some(map) = edited[field].as_object_mut() {
                let first = map.keys().next().cloned().unwrap_or_default();
                map.remove(&first);
            }
        }
        script.put(path, edited);
        apply_all().await;
        assert_eq!(script.writes().len(), 1, "{path}");
        assert_eq!(script.get(path), Some(good.clone()), "{path}");

        script.objects.lock().expect("lock").remove(path);
        apply_all().await;
        script.writes();
        assert_eq!(script.get(path), Some(good), "{path}");
    }
}

fn certificates() -> State {
    let lifetimes = SelfSigned {
        validity: Duration::from_secs(90 * 86400),
        renew_before: Duration::from_secs(30 * 86400),
        authority_validity: Duration::from_secs(1800 * 86400),
        overlap: Duration::ZERO,
    };
    let names = vec!["orders.shop.svc".to_owned()];
    let asked = Asked { lifetimes, names, rotate_certificates: None, rotate_authority: None };
    let now = k8s_openapi::jiff::Timestamp::from_second(1_800_000_000).expect("a time");
    issue::renew(&asked, &State::default(), &Observed::default(), now).expect("made").state
}

#[tokio::test]
async fn without_cert_manager_it_is_said() {
    let spec = json!({"tls": {"mode": "CertManager", "certManager": {"issuerRef": {"name": "ca"}}}});
    let (script, cluster) = (Script::default(), cluster(spec));
    let client = script.client();
    let request = build::certificate(&cluster).expect("asked for");
    assert_eq!(request["spec"]["issuerRef"]["kind"], "Issuer");
    assert!(request["spec"]["dnsNames"].to_string().contains("*.orders-headless.shop.svc"), "{request}");
    apply::certificate_request(&client, &cluster, &request).await.expect("applied");
    let path = "/apis/cert-manager.io/v1/namespaces/shop/certificates/orders";
    assert_eq!(script.get(path).expect("exists")["spec"]["secretName"], "orders-cert-manager");
    apply::withdraw_certificate_request(&client, &cluster).await.expect("removed");
    assert_eq!(script.get(path), None);
    script.refuse_patches();
    let refused = apply::certificate_request(&client, &cluster, &request).await.expect_err("not installed");
    assert!(refused.to_string().contains("install cert-manager"), "{refused}");
}

#[tokio::test]
async fn other_peoples_objects_are_never_written() {
    let foreign =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "data": {"a": "Yg=="}});
    let elsewhere =
        json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "theirs", "controller": true}]);
    for owners in [Value::Null, elsewhere] {
        let mut secret = foreign.clone();
        if !owners.is_null() {
            secret["metadata"]["ownerReferences"] = owners;
        }
        let (script, cluster) = (Script::default(), cluster(json!({})));
        let client = script.client();
        for path in [CONFIG, SYSTEM] {
            script.put(path, secret.clone());
        }
        let system = SystemSecret { route_password: "p".to_owned(), operator_seed: "s".to_owned() };
        let refused =
            apply::system(&client, &cluster, &system, &Known::default()).await.expect_err("refused");
        assert!(matches!(&refused, ApplyError::Foreign { name, .. } if name == "orders-system"), "{refused}");
        let refused = apply::resources(&client, &cluster, &resources(&cluster), &Known::default())
            .await
            .expect_err("refused");
        assert!(matches!(&refused, ApplyError::Foreign { name, .. } if name == "orders-config"), "{refused}");
        assert_eq!(script.get(CONFIG), Some(secret.clone()));
        assert_eq!(script.get(SYSTEM), Some(secret));
        assert_eq!(script.get(STATEFUL_SET), None, "no server starts from somebody else's configuration");
    }
}

#[tokio::test]
async fn a_budget_that_is_turned_off_goes_and_a_foreign_one_stays() {
    let off = cluster(json!({"disruptionBudget": {"mode": "Disabled"}}));
    let (script, on) = (Script::default(), cluster(json!({})));
    let client = script.client();
    apply::resources(&client, &on, &resources(&on), &Known::default()).await.expect("applied");
    assert!(script.get(BUDGET).is_some());
    apply::resources(&client, &off, &resources(&off), &Known::default()).await.expect("applied");
    assert_eq!(script.get(BUDGET), None);

    let foreign =
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "orders"}});
    script.put(BUDGET, foreign.clone());
    apply::resources(&client, &off, &resources(&off), &Known::default()).await.expect("applied");
    assert_eq!(script.get(BUDGET), Some(foreign));
}

#[tokio::test]
async fn a_pod_is_deleted_only_as_it_was_seen() {
    let path = "/api/v1/namespaces/shop/pods/orders-2";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata":
        {"name": "orders-2", "namespace": "shop", "uid": "u2", "resourceVersion": "42"}});
    let script = Script::default();
    let client = script.client();
    script.put(path, pod.clone());
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    apply::delete_pod(&client, &pod).await.expect("deleted");
    let writes = script.writes();
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].2["preconditions"], json!({"uid": "u2", "resourceVersion": "42"}));
    // Gone meanwhile: what we wanted.
    apply::delete_pod(&client, &pod).await.expect("no error");
}

#[tokio::test]
async fn secrets_are_only_in_secrets() {
    let (script, cluster) = (Script::default(), cluster(json!({})));
    let client = script.client();
    let system =
        SystemSecret { route_password: "a-route-password".to_owned(), operator_seed: "a-seed".to_owned() };
    apply::system(&client, &cluster, &system, &Known::default()).await.expect("applied");
    let rendered =
        render(&cluster, &Placement::in_pod(&cluster), &system.route_password, &[]).expect("renders");
    let generation = Generation::after(None, rendered, Reload::Impossible);
    apply::resources(&client, &cluster, &build::resources(&cluster, &generation, None, 3), &Known::default())
        .await
        .expect("applied");
    for (_, path, body) in script.writes() {
        let secret = path.contains("/secrets/");
        assert!(!body.to_string().contains("a-route-password"), "{path} shows the password in plain text");
        assert_eq!(body["data"].is_object(), secret, "{path}");
    }
}
