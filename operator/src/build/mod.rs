//! What a valid cluster consists of: configuration files and Kubernetes objects.
//!
//! Owns the shape of everything that the operator creates. Never talks to anything and never decides
//! when: [`crate::rollout`] does.

pub mod config;
pub mod labels;
mod objects;
mod pods;

pub use objects::{
    CLUSTER_PORT_NAME, Resources, SystemSecret, client_service_url, config_secret_name, resources,
    system_secret, system_secret_name,
};
pub use pods::{CONTAINER, template_hash};
