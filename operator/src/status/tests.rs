//! What the status says of everything that can happen to a cluster.

use super::*;
use crate::build::config::Reload;
use crate::crd::NatsCluster;
use crate::rollout::plan;
use crate::validate::{Defaults, validate};

const RELOAD: Duration = Duration::from_secs(10);

fn at(second: u8) -> Time {
    Time(format!("2026-01-01T00:00:{second:02}Z").parse().expect("a time"))
}

fn cluster(spec: serde_json::Value) -> Cluster {
    let object = serde_json::json!({
        "apiVersion": "starling.dev/v1alpha1", "kind": "NatsCluster",
        "metadata": {"name": "orders", "namespace": "shop", "generation": 7}, "spec": spec,
    });
    let object: NatsCluster = serde_json::from_value(object).expect("a NatsCluster");
    validate(&object, &Defaults::default()).expect("valid")
}

fn server(ordinal: u32) -> Server {
    Server {
        ordinal,
        template: "t1".to_owned(),
        config: Some("c1".to_owned()),
        health: Health::Ready,
        leaving: false,
        routes: Some(2),
        state_age: Duration::from_secs(60),
        reload_age: None,
        version: Some("1.0.0".to_owned()),
        trouble: None,
        certificate_not_after: None,
        zone: None,
    }
}

fn three() -> Observed {
    Observed { workload_servers: Some(3), workload_current: true, servers: (0..3).map(server).collect() }
}

fn changed(change: impl FnOnce(&mut Observed)) -> Observed {
    let mut observed = three();
    change(&mut observed);
    observed
}

fn seen(spec: serde_json::Value, observed: &Observed, reload: Reload) -> NatsClusterStatus {
    let cluster = cluster(spec);
    let target = Target::new(&cluster, "t1".to_owned(), "c1".to_owned(), reload, RELOAD);
    let plan = plan(&target, observed);
    let view = View { cluster: &cluster, target: &target, observed, plan: &plan, certificate: None };
    status(view, Vec::new(), None, None, &at(0))
}

fn show(status: &NatsClusterStatus, kind: &str) -> String {
    let condition = find(status, kind).expect(kind);
    format!("{} {}: {}", condition.status, condition.reason, condition.message)
}

/// What `kubectl get` shows for each thing that a cluster may wait for.
#[test]
fn every_state_has_a_reason_and_says_what_it_waits_for() {
    let none = serde_json::json!({});
    let late = Duration::from_secs(3600);
    let cases = [
        (none.clone(), three(), "True AllServersReady: all 3 servers are ready"),
        (none.clone(), Observed::default(), "False ScalingUp: from 0 to 3 servers"),
        (
            serde_json::json!({"replicas": 2}),
            three(),
            "False ScalingDown: from 3 to 2 servers: orders-2 sends its clients to the others and leaves",
        ),
        (
            serde_json::json!({"replicas": 2}),
            changed(|o| {
                o.workload_servers = Some(2);
                o.servers[2].leaving = true;
            }),
            "False ScalingDown: waiting for orders-2 to send its clients away and leave",
        ),
        (
            none.clone(),
            changed(|o| {
                o.servers[1].leaving = true;
                o.servers[1].state_age = late;
            }),
            "False WaitingForServers: waiting for orders-1 to leave, which takes too long; if its node is gone \
             for good, delete the Node, or the pod with --force",
        ),
        (
            none.clone(),
            changed(|o| o.servers[0].template = "t0".to_owned()),
            "False RollingUpdate: orders-0 is outdated",
        ),
        (
            none.clone(),
            changed(|o| {
                o.servers[0].template = "t0".to_owned();
                o.servers[0].health = Health::Unready;
            }),
            "False RollingUpdate: orders-0 is outdated and not ready",
        ),
        (
            none.clone(),
            changed(|o| {
                o.servers[1].health = Health::Unready;
                o.servers[1].trouble = Some("ImagePullBackOff: no such image".to_owned());
            }),
            "False WaitingForServers: waiting for orders-1 to become ready (ImagePullBackOff: no such image)",
        ),
        (
            none.clone(),
            changed(|o| o.servers[2].routes = Some(1)),
            "False WaitingForServers: waiting for orders-2 to be connected to all 2 other servers (now 1)",
        ),
        (
            none.clone(),
            changed(|o| o.servers[2].health = Health::Unknown),
            "False WaitingForServers: waiting for orders-2 to answer on its monitoring port",
        ),
        (
            none.clone(),
            changed(|o| drop(o.servers.remove(1))),
            "False WaitingForServers: waiting for orders-1 to be created",
        ),
        (
            none.clone(),
            changed(|o| o.workload_current = false),
            "False WaitingForServers: waiting for the StatefulSet controller to see the newest template",
        ),
        (
            serde_json::json!({"updateStrategy": {"rollingUpdate": {"minReadySeconds": 100}}}),
            changed(|o| o.servers[0].template = "t0".to_owned()),
            "False RollingUpdate: waiting for orders-2 to stay healthy for another 41s",
        ),
        (
            serde_json::json!({"updateStrategy": {"type": "OnDelete"}}),
            changed(|o| o.servers[0].template = "t0".to_owned()),
            "False RollingUpdate: waiting for the pods of 1 outdated servers to be deleted \
             (spec.updateStrategy.type is OnDelete)",
        ),
        (
            none.clone(),
            changed(|o| o.servers[1].config = Some("c0".to_owned())),
            "False Reloading: orders-1 loads the new configuration",
        ),
        (
            none.clone(),
            changed(|o| {
                o.servers[1].config = Some("c0".to_owned());
                o.servers[1].reload_age = Some(late);
            }),
            "False Reloading: waiting for orders-1 to load its configuration, which it has not done; see its \
             log and the operator's",
        ),
        (
            serde_json::json!({"paused": true}),
            three(),
            "True Paused: spec.paused is true: nothing is changed",
        ),
        (
            serde_json::json!({"hibernated": true}),
            three(),
            "False Hibernated: spec.hibernated is true: no server runs",
        ),
    ];
    for (spec, observed, expected) in cases {
        let status = seen(spec, &observed, Reload::Possible);
        assert_eq!(show(&status, condition::READY), expected);
    }
}

#[test]
fn a_driver_that_cannot_reload_says_what_to_do() {
    let observed = changed(|o| o.servers[1].config = Some("c0".to_owned()));
    let status = seen(serde_json::json!({}), &observed, Reload::Impossible);
    let expected = "False Reloading: waiting for orders-1 to report the newest configuration; if it does \
                    not, delete its pod";
    assert_eq!(show(&status, condition::READY), expected);
    assert_eq!(show(&status, condition::CONFIG_APPLIED), "False ReloadPending: 1 servers are to load it");
}

#[test]
fn stalled_means_that_only_help_or_luck_goes_on() {
    let late = Duration::from_secs(3600);
    let stuck = |change: fn(&mut Server)| {
        let observed = changed(|o| {
            o.servers.iter_mut().for_each(|server| server.state_age = Duration::from_secs(3600));
            change(&mut o.servers[1]);
        });
        show(&seen(serde_json::json!({}), &observed, Reload::Possible), condition::STALLED)
    };
    assert!(stuck(|_| {}).starts_with("False Progressing"));
    assert!(
        stuck(|server| server.health = Health::Unready)
            .starts_with("True RolloutGateTimeout: waiting for orders-1")
    );
    assert!(
        stuck(|server| server.routes = Some(0)).starts_with("True RolloutGateTimeout: waiting for orders-1")
    );
    assert!(stuck(|server| server.leaving = true).starts_with("True ServerNotLeaving"));
    // Connected to too few, but only since a neighbour started.
    let observed = changed(|o| {
        o.servers.iter_mut().for_each(|server| server.state_age = late);
        o.servers[0].routes = Some(1);
        o.servers[2].state_age = Duration::ZERO;
    });
    let status = seen(serde_json::json!({}), &observed, Reload::Possible);
    assert!(show(&status, condition::STALLED).starts_with("False"));
}

#[test]
fn availability_counts_servers_that_take_clients() {
    let availability = |ready: usize| {
        let observed = changed(|o| o.servers.iter_mut().skip(ready).for_each(|s| s.health = Health::Unready));
        show(&seen(serde_json::json!({}), &observed, Reload::Possible), condition::AVAILABLE)
    };
    assert_eq!(availability(3), "True MinimumServers: 3 servers take clients");
    assert_eq!(availability(1), "True MinimumServers: 1 server takes clients");
    assert_eq!(availability(0), "False NoServers: no server takes clients");
}

#[test]
fn a_refused_spec_leaves_rows_alone_and_is_stalled() {
    let before = seen(serde_json::json!({}), &three(), Reload::Possible);
    let after = invalid(8, Reason::ConfigRejected, "spec.config.merge: unknown field", Some(&before), &at(9));
    assert_eq!(after.servers, before.servers);
    assert_eq!(after.observed_generation, Some(8));
    assert_eq!(show(&after, condition::STALLED), "True ConfigRejected: spec.config.merge: unknown field");
    assert_eq!(show(&after, condition::READY), "False ConfigRejected: spec.config.merge: unknown field");
    assert!(show(&after, condition::AVAILABLE).starts_with("True"));
    let notes = transition_notes(Some(&before), &after);
    assert_eq!(notes.len(), 1);
    assert!(notes[0].warning && notes[0].reason == Reason::ConfigRejected);
    // Told once, not at every look.
    assert_eq!(transition_notes(Some(&after), &after), []);
}

#[test]
fn transition_times_change_with_the_status_only() {
    let cluster = cluster(serde_json::json!({}));
    let target = Target::new(&cluster, "t1".to_owned(), "c1".to_owned(), Reload::Possible, RELOAD);
    let look = |observed: &Observed, previous: Option<&NatsClusterStatus>, now| {
        let plan = plan(&target, observed);
        let view = View { cluster: &cluster, target: &target, observed, plan: &plan, certificate: None };
        status(view, Vec::new(), None, previous, &at(now))
    };
    let first = look(&three(), None, 1);
    let same = look(&three(), Some(&first), 2);
    assert_eq!(first, same, "nothing changed, so nothing is to be written");
    let broken = look(&changed(|o| o.servers[0].health = Health::Unready), Some(&same), 3);
    let time =
        |status: &NatsClusterStatus, kind| find(status, kind).expect(kind).last_transition_time.clone();
    assert_eq!(time(&broken, condition::READY), at(3));
    assert_eq!(time(&broken, condition::AVAILABLE), at(1));
    assert!(broken.conditions.iter().all(|condition| condition.observed_generation == Some(7)));
}

#[test]
fn a_rollout_is_reported_from_its_begin_to_its_end() {
    let cluster = cluster(serde_json::json!({}));
    let target = Target::new(&cluster, "t1".to_owned(), "c1".to_owned(), Reload::Possible, RELOAD);
    let look = |observed: &Observed, previous: Option<&NatsClusterStatus>, now| {
        let plan = plan(&target, observed);
        let view = View { cluster: &cluster, target: &target, observed, plan: &plan, certificate: None };
        let current = status(view, Vec::new(), None, previous, &at(now));
        (notes(&cluster, &plan.step, previous, &current), current)
    };
    let outdated = changed(|o| o.servers.iter_mut().take(1).for_each(|s| s.template = "t0".to_owned()));
    let (begin_notes, begin) = look(&outdated, None, 1);
    let rollout = begin.rollout.clone().expect("under way");
    assert_eq!((rollout.updated, rollout.total, rollout.current.as_deref()), (2, 3, Some("orders-0")));
    assert_eq!(begin_notes[0].reason, Reason::ServerRestarting);
    let starting = changed(|o| o.servers[0].health = Health::Unready);
    let (_, middle) = look(&starting, Some(&begin), 2);
    assert_eq!(middle.rollout.as_ref().and_then(|rollout| rollout.started_at.clone()), Some(at(1)));
    let (end_notes, end) = look(&three(), Some(&middle), 3);
    assert_eq!(end.rollout, None);
    let reasons: Vec<_> = end_notes.iter().map(|note| note.reason).collect();
    assert_eq!(reasons, [Reason::RolloutCompleted, Reason::Ready]);
}

#[test]
fn the_version_is_told_once_all_servers_agree() {
    let version =
        |observed: &Observed| seen(serde_json::json!({}), observed, Reload::Possible).version.current;
    assert_eq!(version(&three()).as_deref(), Some("1.0.0"));
    assert_eq!(version(&changed(|o| o.servers[0].version = Some("0.9.0".to_owned()))), None);
}
