//! What a valid cluster consists of: configuration files and Kubernetes objects.
//!
//! Owns the shape of everything that the operator creates. Never talks to anything and never decides
//! when: [`crate::rollout`] does.

pub mod config;
pub mod labels;
mod objects;
mod pods;
mod tls;

pub use objects::{
    CLUSTER_PORT_NAME, PROVEN_FILE, Resources, SystemSecret, client_service_url, config_secret,
    config_secret_name, outside_endpoints, resources, system_secret, system_secret_name, url_scheme,
};
pub use pods::{CONTAINER, ZONE_TAG, template_hash};
pub use tls::{
    authority_secret, authority_secret_name, cert_manager_secret_name, certificate, server_secret,
    tls_secret_name,
};

/// Annotation of every object that is applied: hash of what was applied, to see what is to be taken away.
pub const APPLIED_HASH: &str = "starling.dev/applied-hash";
