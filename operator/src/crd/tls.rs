//! `NatsCluster`: how servers and clients prove who they are.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::cluster::DURATION_PATTERN;

/// The servers' certificate: where it comes from, and when it is renewed. It is used between servers, both
/// ways, unless spec.cluster.tls.mode is Disabled, and towards clients where spec.listeners[].tls asks for it.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[x_kube(validation = Rule::new("(self.mode == 'CertManager') == has(self.certManager)")
    .message("spec.tls.certManager belongs to spec.tls.mode CertManager, which needs it"))]
#[x_kube(validation = Rule::new("(self.mode == 'Secret') == has(self.secret)")
    .message("spec.tls.secret belongs to spec.tls.mode Secret, which needs it"))]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// SelfSigned: the operator keeps an authority of the cluster's own and renews everything in time.
    /// CertManager: cert-manager issues the certificate. Secret: you do, and you renew it. Disabled: no
    /// certificate. Can only be changed while the cluster is hibernated: servers of two minds would not
    /// know each other.
    #[serde(default)]
    pub mode: TlsMode,

    /// For mode SelfSigned: how long certificates last.
    #[serde(default)]
    pub self_signed: SelfSigned,

    /// For mode CertManager: who issues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_manager: Option<CertManager>,

    /// For mode Secret: where the certificate is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<TlsSecret>,

    /// Further DNS names and IP addresses under which clients reach the servers, for modes SelfSigned and
    /// CertManager. Names of the Services are in the certificate anyway. A change is a new certificate,
    /// not a restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 253), pattern(r"^[A-Za-z0-9*:.-]+$")))]
    pub extra_names: Vec<String>,
}

/// Where the servers' certificate comes from.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum TlsMode {
    /// No certificate.
    Disabled,
    /// From the operator's authority for this cluster, Secret NAME-ca.
    #[default]
    SelfSigned,
    /// From cert-manager.
    CertManager,
    /// From a Secret that somebody else keeps.
    Secret,
}

/// How long certificates of the operator's own last.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[x_kube(validation = Rule::new("duration(self.renewBefore) < duration(self.validity)")
    .message("spec.tls.selfSigned.renewBefore must be shorter than validity"))]
#[x_kube(validation = Rule::new("duration(self.validity) < duration(self.authorityValidity)")
    .message("spec.tls.selfSigned.validity must be shorter than authorityValidity"))]
#[serde(rename_all = "camelCase")]
pub struct SelfSigned {
    /// How long a server certificate is valid.
    #[serde(default = "default_validity")]
    #[schemars(pattern(DURATION_PATTERN))]
    pub validity: String,
    /// How long before its end it is replaced; servers take the new one while they run.
    #[serde(default = "default_renew_before")]
    #[schemars(pattern(DURATION_PATTERN))]
    pub renew_before: String,
    /// How long the authority is valid. It is replaced before a server certificate could outlive it.
    #[serde(default = "default_authority_validity")]
    #[schemars(pattern(DURATION_PATTERN))]
    pub authority_validity: String,
    /// How long the old and the new authority are both in ca.crt before the servers' certificate changes
    /// over, and then again before the old one goes: the time that clients have to load ca.crt anew.
    #[serde(default = "default_overlap")]
    #[schemars(pattern(DURATION_PATTERN))]
    pub overlap: String,
}

impl Default for SelfSigned {
    fn default() -> Self {
        Self {
            validity: default_validity(),
            renew_before: default_renew_before(),
            authority_validity: default_authority_validity(),
            overlap: default_overlap(),
        }
    }
}

/// What cert-manager is asked for. The issuer must put its authority into ca.crt of the Secret, as CA,
/// Vault and SelfSigned issuers do.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[x_kube(validation = Rule::new("duration(self.renewBefore) < duration(self.duration)")
    .message("spec.tls.certManager.renewBefore must be shorter than duration"))]
#[serde(rename_all = "camelCase")]
pub struct CertManager {
    /// The issuer.
    pub issuer_ref: IssuerReference,
    /// How long a certificate is valid.
    #[serde(default = "default_validity")]
    #[schemars(pattern(DURATION_PATTERN))]
    pub duration: String,
    /// How long before its end it is replaced.
    #[serde(default = "default_renew_before")]
    #[schemars(pattern(DURATION_PATTERN))]
    pub renew_before: String,
}

/// Names an issuer of cert-manager.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IssuerReference {
    /// Name of the issuer.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Issuer or ClusterIssuer, or the kind of an external issuer.
    #[serde(default = "default_issuer_kind")]
    pub kind: String,
    /// API group of the issuer.
    #[serde(default = "default_issuer_group")]
    pub group: String,
}

/// Names a Secret of type kubernetes.io/tls.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TlsSecret {
    /// Secret in the cluster's namespace with tls.crt, tls.key and ca.crt. The certificate must be for the
    /// headless Service (NAME-headless.NAMESPACE.svc), for servers and for clients. Changed content is
    /// loaded by the servers while they run.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// TLS between servers.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RouteTls {
    /// Inherit: servers show each other the certificate of spec.tls. Disabled: routes are plain text. Can
    /// only be changed while the cluster is hibernated.
    #[serde(default)]
    pub mode: RouteTlsMode,
}

/// Whether routes use TLS.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum RouteTlsMode {
    /// As spec.tls says.
    #[default]
    Inherit,
    /// No TLS between servers.
    Disabled,
}

/// TLS towards clients.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[x_kube(validation = Rule::new("self.mode != 'Disabled' || self.clientAuth == 'None'")
    .message("spec.listeners[].tls.clientAuth needs a tls.mode other than Disabled"))]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// Disabled: no TLS. Optional: clients may. Required: clients must. HandshakeFirst: clients must, and
    /// begin with the handshake, before any INFO.
    #[serde(default)]
    pub mode: ListenerTlsMode,
    /// Required: clients show a certificate that ca.crt vouches for.
    #[serde(default)]
    pub client_auth: ClientAuth,
}

/// Whether clients use TLS.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum ListenerTlsMode {
    /// No TLS.
    #[default]
    Disabled,
    /// TLS for those who ask for it.
    Optional,
    /// TLS for all.
    Required,
    /// TLS for all, from the first byte.
    HandshakeFirst,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
pub enum ClientAuth {
    /// They need none.
    #[default]
    None,
    /// They must.
    Required,
}

fn default_validity() -> String {
    "2160h".to_owned()
}
fn default_renew_before() -> String {
    "720h".to_owned()
}
fn default_authority_validity() -> String {
    "43800h".to_owned()
}
fn default_overlap() -> String {
    "24h".to_owned()
}
fn default_issuer_kind() -> String {
    "Issuer".to_owned()
}
fn default_issuer_group() -> String {
    "cert-manager.io".to_owned()
}
