//! Every Kubernetes object of a cluster but the pods.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{Secret, Service, ServiceAccount, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::config::{CONFIG_FILE, Generation, headless_name};
use super::{labels, pods};
use crate::crd;
use crate::validate::Cluster;
use nkeys::{KeyPair, KeyPairType};

/// Name of the route port, in Services and pods.
pub const CLUSTER_PORT_NAME: &str = "cluster";
/// Name of the monitoring port, in Services and pods.
pub const MONITOR_PORT_NAME: &str = "monitor";
/// Label that the StatefulSet controller gives each pod.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Name of the endpoint of a load balancer for all servers.
const OUTSIDE: &str = "outside";
/// Key of the route password in the system Secret.
const ROUTE_PASSWORD: &str = "route-password";
/// Key of the operator's own nkey seed in the system Secret.
const OPERATOR_SEED: &str = "operator-seed";
/// Key of the newest file that every server had loaded, in the config Secret.
pub const PROVEN_FILE: &str = "proven.conf";

/// Everything that a cluster owns, in the order in which it is applied: what pods need comes first.
#[derive(Clone, Debug)]
pub struct Resources {
    /// Identity of the pods; has no rights and no token.
    pub service_account: ServiceAccount,
    /// The configuration file.
    pub config: Secret,
    /// DNS name of all servers, ready or not.
    pub headless: Service,
    /// Where clients connect.
    pub client: Service,
    /// Where clients outside connect to one server each; [`Resources::set_servers`] makes them.
    pub per_server: Vec<Service>,
    /// The servers.
    pub stateful_set: StatefulSet,
    /// Keeps drains to one server at a time; `None`: there must be none.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// Who may connect; `None`: there must be none.
    pub network_policy: Option<NetworkPolicy>,
    /// Hash in the pod template's label.
    pub template_hash: String,
}

impl Resources {
    /// Sets the number of servers that the StatefulSet keeps.
    pub fn set_servers(&mut self, cluster: &Cluster, servers: u32) {
        let wanted = if cluster.listener.per_server { servers } else { 0 };
        self.per_server = (0..wanted).map(|ordinal| server_service(cluster, ordinal)).collect();
        if let Some(spec) = &mut self.stateful_set.spec {
            spec.replicas = Some(i32::try_from(servers).unwrap_or(i32::MAX));
        }
    }
}

/// Generated credentials, kept in a Secret of their own because they outlive every configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemSecret {
    /// Password of routes.
    pub route_password: String,
    /// Seed of the nkey by which the operator logs in to the system account; servers know the public key.
    pub operator_seed: String,
}

impl SystemSecret {
    /// Reads the Secret, if there is one, and makes what is missing.
    pub fn complete(secret: Option<&Secret>, random: &mut impl rand::Rng) -> Self {
        let text = |key: &str| {
            let bytes = &secret?.data.as_ref()?.get(key)?.0;
            String::from_utf8(bytes.clone()).ok().filter(|text| !text.is_empty())
        };
        let seed = text(OPERATOR_SEED).filter(|seed| KeyPair::from_seed(seed).is_ok());
        Self {
            route_password: text(ROUTE_PASSWORD).unwrap_or_else(|| super::config::new_password(random)),
            operator_seed: seed.unwrap_or_else(|| {
                let mut bytes = [0_u8; 32];
                random.fill_bytes(&mut bytes);
                let pair = KeyPair::new_from_raw(KeyPairType::User, bytes);
                pair.and_then(|pair| pair.seed()).unwrap_or_default()
            }),
        }
    }

    /// The operator's key; `None` only if the seed was none.
    pub fn operator_key(&self) -> Option<KeyPair> {
        KeyPair::from_seed(&self.operator_seed).ok()
    }
}

/// Builds all objects for a number of servers, which [`crate::rollout::plan`] chose.
///
/// `restarted_at` is the annotation [`labels::RESTARTED_AT`] of the cluster.
pub fn resources(
    cluster: &Cluster,
    generation: &Generation,
    restarted_at: Option<&str>,
    servers: u32,
) -> Resources {
    let (template, template_hash) = pods::template(cluster, &generation.restart_digest, restarted_at);
    Resources {
        service_account: ServiceAccount {
            metadata: metadata(cluster, &cluster.name),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
        config: config_secret(cluster, generation),
        headless: headless(cluster),
        client: client_service(cluster),
        per_server: Vec::new(),
        stateful_set: StatefulSet {
            metadata: metadata(cluster, &cluster.name),
            spec: Some(StatefulSetSpec {
                replicas: Some(i32::try_from(servers).unwrap_or(i32::MAX)),
                // We replace pods ourselves: one at a time, each behind the brokers' own health.
                pod_management_policy: Some("Parallel".to_owned()),
                update_strategy: Some(StatefulSetUpdateStrategy {
                    type_: Some("OnDelete".to_owned()),
                    ..StatefulSetUpdateStrategy::default()
                }),
                selector: selector(cluster),
                service_name: Some(headless_name(cluster)),
                template,
                ..StatefulSetSpec::default()
            }),
            ..StatefulSet::default()
        },
        disruption_budget: cluster.disruption_budget.then(|| disruption_budget(cluster)),
        network_policy: cluster.network_policy.as_ref().map(|policy| network_policy(cluster, policy)),
        template_hash,
    }
}

/// Name of the Secret with the configuration file.
pub fn config_secret_name(cluster: &str) -> String {
    format!("{cluster}-config")
}

/// Name of the Secret with generated credentials.
pub fn system_secret_name(cluster: &str) -> String {
    format!("{cluster}-system")
}

/// The Secret with generated credentials.
pub fn system_secret(cluster: &Cluster, system: &SystemSecret) -> Secret {
    Secret {
        metadata: metadata(cluster, &system_secret_name(&cluster.name)),
        data: Some(BTreeMap::from([
            (ROUTE_PASSWORD.to_owned(), bytes(&system.route_password)),
            (OPERATOR_SEED.to_owned(), bytes(&system.operator_seed)),
        ])),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// URL of the client Service inside the Kubernetes cluster.
pub fn client_service_url(cluster: &Cluster) -> String {
    let scheme = url_scheme(cluster);
    format!("{scheme}://{}.{}.svc:{}", cluster.name, cluster.namespace, cluster.listener.port)
}

/// How clients' URLs begin.
pub fn url_scheme(cluster: &Cluster) -> &'static str {
    match cluster.tls.as_ref().and_then(|tls| tls.clients) {
        Some(clients) if !clients.optional => "tls",
        _ => "nats",
    }
}

/// The Secret with the configuration file.
pub fn config_secret(cluster: &Cluster, generation: &Generation) -> Secret {
    let mut metadata = metadata(cluster, &config_secret_name(&cluster.name));
    let mut annotations = BTreeMap::from([
        (labels::CONFIG_DIGEST.to_owned(), generation.rendered.digest.clone()),
        (labels::RESTART_DIGEST.to_owned(), generation.restart_digest.clone()),
    ]);
    if let Some(refused) = &generation.refused {
        let text = serde_json::to_string(refused).unwrap_or_default();
        annotations.insert(labels::CONFIG_REFUSED.to_owned(), text);
    }
    metadata.annotations = Some(annotations);
    let mut data = BTreeMap::from([(CONFIG_FILE.to_owned(), bytes(&generation.rendered.text))]);
    if let Some(proven) = &generation.proven {
        data.insert(PROVEN_FILE.to_owned(), bytes(proven));
    }
    Secret { metadata, data: Some(data), type_: Some("Opaque".to_owned()), ..Secret::default() }
}

fn headless(cluster: &Cluster) -> Service {
    service(
        cluster,
        &headless_name(cluster),
        ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // Servers must find each other before any of them is ready.
            publish_not_ready_addresses: Some(true),
            ports: Some(vec![
                port(&cluster.listener.name, cluster.listener.port),
                port(CLUSTER_PORT_NAME, cluster.route_port),
                port(MONITOR_PORT_NAME, cluster.monitor_port),
            ]),
            ..ServiceSpec::default()
        },
    )
}

fn client_service(cluster: &Cluster) -> Service {
    let mut service = service(cluster, &cluster.name, exposed(cluster));
    let annotations = &cluster.listener.service_annotations;
    let of_all =
        annotations.iter().filter(|(_, value)| !value.contains("{pod}") && !value.contains("{ordinal}"));
    let annotations: BTreeMap<String, String> =
        of_all.map(|(key, value)| (key.clone(), value.clone())).collect();
    service.metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    service
}

/// The Service of one server, for clients outside.
fn server_service(cluster: &Cluster, ordinal: u32) -> Service {
    let name = cluster.server_name(ordinal);
    let mut service = service(cluster, &name, exposed(cluster));
    if let Some(spec) = &mut service.spec {
        let selector = spec.selector.get_or_insert_default();
        selector.insert(POD_NAME.to_owned(), name.clone());
        let base = cluster.listener.node_port.map(u32::from);
        let port = base.and_then(|base| i32::try_from(base + ordinal).ok());
        spec.ports.iter_mut().flatten().for_each(|service_port| service_port.node_port = port);
    }
    let labels = service.metadata.labels.get_or_insert_default();
    labels.insert(labels::SERVER_OF_SERVICE.to_owned(), name.clone());
    let named = |value: &String| value.replace("{pod}", &name).replace("{ordinal}", &ordinal.to_string());
    let annotations = &cluster.listener.service_annotations;
    let annotations: BTreeMap<String, String> =
        annotations.iter().map(|(key, value)| (key.clone(), named(value))).collect();
    service.metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    service
}

/// What is alike in all Services for clients.
fn exposed(cluster: &Cluster) -> ServiceSpec {
    let type_ = match cluster.listener.expose {
        crd::ExposeType::ClusterIP => "ClusterIP",
        crd::ExposeType::NodePort => "NodePort",
        crd::ExposeType::LoadBalancer => "LoadBalancer",
    };
    ServiceSpec {
        type_: Some(type_.to_owned()),
        load_balancer_class: cluster.listener.load_balancer_class.clone(),
        external_traffic_policy: cluster.listener.external_traffic_policy.map(|policy| {
            let text = match policy {
                crd::TrafficPolicy::Cluster => "Cluster",
                crd::TrafficPolicy::Local => "Local",
            };
            text.to_owned()
        }),
        ports: Some(vec![port(&cluster.listener.name, cluster.listener.port)]),
        ..ServiceSpec::default()
    }
}

/// URLs by which clients outside reach load balancers: of all servers, and of each.
pub fn outside_endpoints(cluster: &Cluster, services: &[Service]) -> Vec<crd::Endpoint> {
    let scheme = url_scheme(cluster);
    let address = |service: &Service| {
        let balancer = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?;
        let host = balancer.hostname.clone().or_else(|| balancer.ip.clone())?;
        Some(if host.contains(':') { format!("[{host}]") } else { host })
    };
    let endpoint = |service: &Service| {
        let name = service.metadata.name.clone()?;
        let url = format!("{scheme}://{}:{}", address(service)?, cluster.listener.port);
        let is_client = name == cluster.name;
        Some(crd::Endpoint { name: if is_client { OUTSIDE.to_owned() } else { name }, url })
    };
    let mut endpoints: Vec<crd::Endpoint> = services.iter().filter_map(endpoint).collect();
    endpoints.sort_by(|a, b| a.name.cmp(&b.name));
    endpoints
}

fn service(cluster: &Cluster, name: &str, spec: ServiceSpec) -> Service {
    let families = cluster.ip_family_policy.map(|policy| match policy {
        crd::IpFamilyPolicy::SingleStack => "SingleStack",
        crd::IpFamilyPolicy::PreferDualStack => "PreferDualStack",
        crd::IpFamilyPolicy::RequireDualStack => "RequireDualStack",
    });
    let ip_family_policy = families.map(str::to_owned);
    let spec = ServiceSpec { selector: Some(labels::selector(cluster)), ip_family_policy, ..spec };
    Service { metadata: metadata(cluster, name), spec: Some(spec), ..Service::default() }
}

fn port(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(number),
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}

fn disruption_budget(cluster: &Cluster) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(cluster, &cluster.name),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(cluster)),
            // A server that does not work protects nobody by staying on a node that must be drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

fn network_policy(cluster: &Cluster, policy: &crd::NetworkPolicySpec) -> NetworkPolicy {
    let own = NetworkPolicyPeer { pod_selector: Some(selector(cluster)), ..NetworkPolicyPeer::default() };
    // It looks after the servers' health, and has them load their configuration.
    let operator = || NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector::default()),
        pod_selector: Some(LabelSelector {
            match_labels: Some(BTreeMap::from([(labels::NAME.to_owned(), labels::OPERATOR.to_owned())])),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    };
    let with_operator = |peers: &[NetworkPolicyPeer]| {
        let more = (!peers.is_empty()).then(operator);
        peers.iter().cloned().chain(more).collect::<Vec<_>>()
    };
    let rule = |port: u16, peers: &[NetworkPolicyPeer]| NetworkPolicyIngressRule {
        // Without peers: everybody.
        from: (!peers.is_empty()).then(|| peers.to_vec()),
        ports: Some(vec![NetworkPolicyPort {
            port: Some(IntOrString::Int(i32::from(port))),
            protocol: Some("TCP".to_owned()),
            ..NetworkPolicyPort::default()
        }]),
    };
    NetworkPolicy {
        metadata: metadata(cluster, &cluster.name),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(cluster)),
            // What servers connect to is their own affair: accounts may have remote imports one day.
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                rule(cluster.listener.port, &with_operator(&policy.client_peers)),
                rule(cluster.route_port, &[own]),
                rule(cluster.monitor_port, &with_operator(&policy.monitoring_peers)),
            ]),
            ..NetworkPolicySpec::default()
        }),
    }
}

fn selector(cluster: &Cluster) -> LabelSelector {
    LabelSelector { match_labels: Some(labels::selector(cluster)), ..LabelSelector::default() }
}

pub(super) fn metadata(cluster: &Cluster, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(labels::labels(cluster)),
        // Whoever deletes the NatsCluster has all of this collected.
        owner_references: Some(vec![OwnerReference {
            api_version: format!("{}/{}", crd::GROUP, crd::VERSION),
            kind: "NatsCluster".to_owned(),
            name: cluster.name.clone(),
            uid: cluster.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

pub(super) fn bytes(text: &str) -> k8s_openapi::ByteString {
    k8s_openapi::ByteString(text.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::config::{Placement, Reload, render};
    use crate::validate::{Defaults, validate};
    use serde_json::{Value, json};

    fn built(spec: Value) -> (Cluster, Resources) {
        let object = serde_json::from_value(json!({
            "apiVersion": "starling.dev/v1alpha1", "kind": "NatsCluster",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u-1"}, "spec": spec,
        }))
        .expect("a NatsCluster");
        let cluster = validate(&object, &Defaults::default()).expect("valid");
        let rendered = render(&cluster, &Placement::in_pod(&cluster), "secret", &[]).expect("renders");
        let generation = Generation::after(None, rendered, Reload::Impossible);
        let resources = resources(&cluster, &generation, None, cluster.servers_wanted());
        (cluster, resources)
    }

    fn pod(resources: &Resources) -> Value {
        serde_json::to_value(&resources.stateful_set).expect("JSON")["spec"]["template"]["spec"].clone()
    }

    #[test]
    fn pods_pass_the_restricted_standard() {
        let pod = pod(&built(json!({})).1);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(pod["automountServiceAccountToken"], false);
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(container["allowPrivilegeEscalation"], false);
        assert_eq!(container["readOnlyRootFilesystem"], true);
        assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
    }

    #[test]
    fn servers_carry_the_zone_of_their_node_as_a_tag() {
        let carries = |spec| {
            let pod = pod(&built(spec).1);
            let container = &pod["containers"][0];
            let args = container["args"].as_array().cloned().expect("args");
            let zone = json!({"fieldRef": {"apiVersion": "v1",
                                           "fieldPath": "metadata.labels['topology.kubernetes.io/zone']"}});
            let env = container["env"].as_array().cloned().expect("env");
            let known = env.iter().any(|env| env["name"] == "POD_ZONE" && env["valueFrom"] == zone);
            known && args.windows(2).any(|pair| pair == [json!("--server_tags"), json!("az:$(POD_ZONE)")])
        };
        assert!(carries(json!({})));
        assert!(carries(json!({"topology": {"zone": "Required"}, "config": {"serverTags": ["ssd"]}})));
        assert!(!carries(json!({"topology": {"zone": "Disabled"}})));
    }

    #[test]
    fn servers_notice_a_dead_one_within_seconds_unless_the_user_wants_otherwise() {
        let file = |spec| {
            let data = built(spec).1.config.data.expect("data");
            let text = String::from_utf8(data[CONFIG_FILE].0.clone()).expect("text");
            let settings = crate::build::config::read_back(&text).expect("a configuration").settings;
            (settings.cluster.ping_interval.map(|pause| pause.as_secs()), settings.cluster.ping_max)
        };
        assert_eq!(file(json!({})), (Some(2), Some(2)));
        let merged = json!({"config": {"merge": {"cluster": {"ping_interval": "20s"}}}});
        assert_eq!(file(merged), (Some(20), Some(2)));
    }

    #[test]
    fn a_leaving_pod_gets_its_lame_duck_time() {
        let pod = pod(&built(json!({"config": {"lameDuckDuration": "2m"}})).1);
        assert_eq!(pod["terminationGracePeriodSeconds"], 150);
        let stop = &pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"];
        assert_eq!(*stop, json!(["/starling-server", "drain", "--wait"]));
    }

    #[test]
    fn the_operator_replaces_pods_itself() {
        let set = built(json!({})).1.stateful_set.spec.expect("spec");
        assert_eq!(set.pod_management_policy.as_deref(), Some("Parallel"));
        assert_eq!(set.update_strategy.and_then(|strategy| strategy.type_).as_deref(), Some("OnDelete"));
    }

    #[test]
    fn the_hash_follows_what_reaches_pods_and_nothing_else() {
        let hash = |spec| built(spec).1.template_hash;
        let base = hash(json!({}));
        assert_eq!(
            base,
            hash(json!({"replicas": 5, "paused": true, "disruptionBudget": {"mode": "Disabled"}}))
        );
        for spec in [
            json!({"image": "other:1"}),
            json!({"config": {"maxPayload": "2Mi"}}),
            json!({"podTemplate": {"annotations": {"a": "b"}}}),
            json!({"resources": {"limits": {"memory": "1Gi"}}}),
            json!({"topology": {"host": "Required"}}),
        ] {
            assert_ne!(base, hash(spec.clone()), "{spec}");
        }
    }

    #[test]
    fn the_overlay_adds_to_the_pod_and_cannot_take_its_identity() {
        let (_, resources) = built(json!({"podTemplate": {
            "labels": {"team": "a", "app.kubernetes.io/instance": "other"},
            "spec": {
                "priorityClassName": "high",
                "containers": [
                    {"name": "nats", "env": [{"name": "X", "value": "1"}]},
                    {"name": "extra", "image": "extra:1"},
                ],
            },
        }}));
        let pod = pod(&resources);
        assert_eq!(pod["priorityClassName"], "high");
        assert_eq!(pod["containers"].as_array().map(Vec::len), Some(2));
        assert_eq!(pod["containers"][0]["name"], "nats");
        let env = pod["containers"][0]["env"].as_array().cloned().expect("env");
        for name in ["POD_NAME", "X"] {
            assert!(env.iter().any(|env| env["name"] == name), "{name} is not in {env:?}");
        }
        let template = resources.stateful_set.spec.expect("spec").template;
        let labels = template.metadata.and_then(|metadata| metadata.labels).expect("labels");
        assert_eq!(labels["app.kubernetes.io/instance"], "orders");
        assert_eq!(labels["team"], "a");
    }

    #[test]
    fn every_object_is_owned_and_labelled() {
        let (_, resources) = built(json!({}));
        let all = [
            resources.service_account.metadata,
            resources.config.metadata,
            resources.headless.metadata,
            resources.client.metadata,
            resources.stateful_set.metadata,
            resources.disruption_budget.expect("on by default").metadata,
        ];
        for metadata in all {
            let owner = metadata.owner_references.expect("owned").remove(0);
            assert_eq!((owner.uid.as_str(), owner.controller), ("u-1", Some(true)));
            assert_eq!(metadata.labels.expect("labelled")[labels::MANAGED_BY], "starling-operator");
        }
    }

    #[test]
    fn only_servers_of_the_cluster_reach_the_route_port() {
        let team = json!([{"namespaceSelector": {"matchLabels": {"team": "a"}}}]);
        let (_, resources) = built(json!({"networkPolicy": {"clientPeers": team}}));
        let policy = serde_json::to_value(resources.network_policy.expect("on by default")).expect("JSON");
        let own =
            json!({"app.kubernetes.io/name": "starling-server", "app.kubernetes.io/instance": "orders"});
        assert_eq!(policy["spec"]["podSelector"]["matchLabels"], own);
        let rule = |port: u16| {
            let rules = policy["spec"]["ingress"].as_array().expect("rules");
            rules.iter().find(|rule| rule["ports"][0]["port"] == port).expect("a rule").clone()
        };
        assert_eq!(rule(6222)["from"], json!([{"podSelector": {"matchLabels": own}}]));
        let clients = rule(4222)["from"].as_array().cloned().expect("peers");
        assert_eq!(clients[0], team[0]);
        let operator = json!({"app.kubernetes.io/name": "starling-operator"});
        assert_eq!(clients[1]["podSelector"]["matchLabels"], operator, "it asks servers to reload");
        assert_eq!(clients.len(), 2);
        assert_eq!(rule(8222)["from"], Value::Null, "everybody, the operator among them");
        assert!(built(json!({"networkPolicy": {"mode": "Disabled"}})).1.network_policy.is_none());
    }

    #[test]
    fn two_ip_versions_reach_services_and_servers() {
        let (_, resources) = built(json!({"ipFamilyPolicy": "PreferDualStack"}));
        for service in [&resources.client, &resources.headless] {
            let policy = service.spec.as_ref().and_then(|spec| spec.ip_family_policy.clone());
            assert_eq!(policy.as_deref(), Some("PreferDualStack"));
        }
        let data = resources.config.data.expect("data");
        let text = String::from_utf8(data[CONFIG_FILE].0.clone()).expect("text");
        assert!(text.contains("\"::\""), "{text}");
    }

    #[test]
    fn a_service_for_the_outside_is_as_asked() {
        let expose = json!({"type": "LoadBalancer", "loadBalancerClass": "a.example/b",
                            "externalTrafficPolicy": "Local"});
        let (_, resources) = built(json!({"listeners": [{"name": "client", "expose": expose}]}));
        let spec = resources.client.spec.expect("spec");
        assert_eq!(spec.type_.as_deref(), Some("LoadBalancer"));
        assert_eq!(spec.load_balancer_class.as_deref(), Some("a.example/b"));
        assert_eq!(spec.external_traffic_policy.as_deref(), Some("Local"));
    }

    #[test]
    fn every_server_has_a_service_and_an_address_of_its_own_if_asked() {
        let expose = json!({"type": "NodePort", "perServer": "Enabled", "nodePort": 30400, "advertise": "Template",
                            "advertiseTemplate": "{node}:3040{ordinal}",
                            "annotations": {"dns": "{pod}.example.com", "team": "a"}});
        let (cluster, mut resources) = built(json!({"listeners": [{"name": "client", "expose": expose}]}));
        assert!(resources.per_server.is_empty());
        resources.set_servers(&cluster, 2);
        let [_, second] = &resources.per_server[..] else { panic!("two Services") };
        let second = serde_json::to_value(second).expect("JSON");
        assert_eq!(second["metadata"]["name"], "orders-1");
        assert_eq!(second["metadata"]["annotations"], json!({"dns": "orders-1.example.com", "team": "a"}));
        assert_eq!(second["spec"]["selector"]["statefulset.kubernetes.io/pod-name"], "orders-1");
        assert_eq!(second["spec"]["ports"][0]["nodePort"], 30401);
        assert_eq!(resources.client.metadata.annotations.as_ref().map(|all| all.len()), Some(1));
        let pod = pod(&resources);
        let args = pod["containers"][0]["args"].as_array().cloned().expect("args");
        assert!(args.contains(&json!("$(NODE_ADDRESS):3040$(POD_ORDINAL)")), "{args:?}");
    }

    #[test]
    fn load_balancers_addresses_are_told_as_urls() {
        let expose = json!({"type": "LoadBalancer", "perServer": "Enabled"});
        let (cluster, mut resources) = built(json!({"listeners": [{"name": "client", "expose": expose}]}));
        resources.set_servers(&cluster, 2);
        let mut services = vec![resources.client.clone(), resources.headless.clone()];
        services.extend(resources.per_server);
        assert_eq!(outside_endpoints(&cluster, &services), [], "no balancer has an address yet");
        let status = |ingress: Value| {
            serde_json::from_value(json!({"loadBalancer": {"ingress": [ingress]}})).expect("a status")
        };
        services[0].status = Some(status(json!({"hostname": "lb.example.com"})));
        services[3].status = Some(status(json!({"ip": "fd00::1"})));
        let told: Vec<(String, String)> =
            outside_endpoints(&cluster, &services).into_iter().map(|e| (e.name, e.url)).collect();
        let expected = [("orders-1", "nats://[fd00::1]:4222"), ("outside", "nats://lb.example.com:4222")];
        assert_eq!(told, expected.map(|(name, url)| (name.to_owned(), url.to_owned())));
    }

    #[test]
    fn servers_show_their_certificate_to_each_other_and_to_clients_if_asked() {
        let text = |spec| {
            let data = built(spec).1.config.data.expect("data");
            String::from_utf8(data[CONFIG_FILE].0.clone()).expect("text")
        };
        assert_eq!(text(json!({})).matches("/etc/nats-tls/tls.crt").count(), 1, "routes alone");
        let both = text(json!({"listeners": [{"name": "client", "tls": {"mode": "Required"}}]}));
        assert_eq!(both.matches("/etc/nats-tls/tls.crt").count(), 2);
        assert!(!text(json!({"tls": {"mode": "Disabled"}})).contains("tls"));
        let mounts = |spec| pod(&built(spec).1)["volumes"].as_array().map(Vec::len);
        assert_eq!((mounts(json!({})), mounts(json!({"tls": {"mode": "Disabled"}}))), (Some(2), Some(1)));
    }

    #[test]
    fn routes_lead_through_the_headless_service() {
        let (_, resources) = built(json!({}));
        let data = resources.config.data.expect("data");
        let text = String::from_utf8(data[CONFIG_FILE].0.clone()).expect("text");
        assert!(text.contains("nats-route://route:secret@orders-headless.shop.svc:6222"), "{text}");
    }
}
