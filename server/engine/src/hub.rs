//! The mesh and what it wants done: where the pure membership of the cluster meets this server's links.
//!
//! Owns the one lock around the [`Mesh`] and does its effects in order, under that lock. Touched by handshakes,
//! gossip and timers, never by messages.

use broker::link::{FLAG_ACCOUNT_IMPLIED, FLAG_HEADERS, FLAG_NO_TRACES};
use broker::registry::{MayTell, RouteRules};
use broker::{Broker, CloseReason, Link};
use cluster::interest::RoutePermissions;
use cluster::{Carries, ConnectionId, Effect, Mesh, Permissions};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;

/// What only the driver can do: dial, resolve, tell clients, log. Called under the hub's lock: it must not wait
/// and must not come back.
pub trait Outside: Send + Sync {
    /// One of `Dial`, `Resolve`, `ClientUrls`, `ClusterName`, `PeerJoined`, `PeerLeft`, `Log`.
    fn effect(&self, effect: Effect);
    /// The mesh was used: its next timeout may have moved.
    fn used(&self);
}

/// The cluster side of a server.
pub struct Hub {
    broker: Arc<Broker>,
    mesh: Mutex<Mesh>,
    links: Mutex<HashMap<ConnectionId, Arc<Link>>>,
    permissions: RwLock<Arc<RoutePermissions>>,
    outside: Box<dyn Outside>,
}

impl Hub {
    /// A hub around a fresh mesh.
    ///
    /// # Errors
    /// The mesh's route permissions hold something that is no subject.
    pub fn new(broker: Arc<Broker>, mesh: Mesh, outside: Box<dyn Outside>) -> Result<Hub, cluster::Error> {
        let permissions = RwLock::new(Arc::new(RoutePermissions::new(&mesh.settings().permissions)?));
        Ok(Hub { broker, mesh: Mutex::new(mesh), links: Mutex::default(), permissions, outside })
    }

    /// Uses the mesh, then does what it wants done.
    pub fn with<R>(&self, use_mesh: impl FnOnce(&mut Mesh) -> R) -> R {
        let mut dirty = Vec::new();
        let result = {
            let mut mesh = self.mesh.lock();
            let result = use_mesh(&mut mesh);
            while let Some(effect) = mesh.poll_effect() {
                self.perform(effect, &mut dirty);
            }
            result
        };
        self.outside.used();
        for link in dirty {
            link.output.flush(&*link.transport);
        }
        result
    }

    /// Takes over changed settings, see [`Mesh::reconfigure`].
    ///
    /// # Errors
    /// The route permissions hold something that is no subject; then nothing is changed.
    pub fn reconfigure(
        &self,
        settings: cluster::Settings,
        advertise: Option<(String, u16)>,
        now: std::time::Duration,
    ) -> Result<(), cluster::Error> {
        *self.permissions.write() = Arc::new(RoutePermissions::new(&settings.permissions)?);
        self.with(|mesh| mesh.reconfigure(settings, advertise, now));
        Ok(())
    }

    /// Looks at the mesh.
    pub fn with_quietly<R>(&self, look: impl FnOnce(&Mesh) -> R) -> R {
        look(&self.mesh.lock())
    }

    /// From now on effects for the connection reach `link`. Before its conversation begins.
    pub fn add(&self, link: &Arc<Link>) {
        self.links.lock().insert(ConnectionId(link.id), link.clone());
    }

    /// The connection is gone.
    pub fn remove(&self, link: &Arc<Link>, now: std::time::Duration) {
        self.links.lock().remove(&ConnectionId(link.id));
        self.with(|mesh| mesh.handle_closed(ConnectionId(link.id), now));
    }

    /// Whether a peer's interest in a filter may be taken (`cluster.permissions.export`).
    pub fn may_take(&self, filter: &[u8]) -> bool {
        self.permissions.read().may_take(filter)
    }

    /// What may be told to a peer: what we import and what it exports.
    fn may_tell(&self, peer: Permissions) -> Option<MayTell> {
        let own = self.permissions.read().clone();
        if peer == Permissions::default() && own.allows_all() {
            return None;
        }
        // subjects that cannot be read allow nothing
        let peer = RoutePermissions::new(&peer).ok();
        Some(Arc::new(move |filter: &[u8]| {
            own.may_send(filter) && peer.as_ref().is_some_and(|peer| peer.may_take(filter))
        }))
    }

    fn link(&self, connection: ConnectionId) -> Option<Arc<Link>> {
        self.links.lock().get(&connection).cloned()
    }

    fn perform(&self, effect: Effect, dirty: &mut Vec<Arc<Link>>) {
        match effect {
            Effect::Send { connection, bytes } => {
                if let Some(link) = self.link(connection)
                    && link.output.push(&bytes)
                {
                    dirty.push(link);
                }
            }
            Effect::Compress { connection, level } => {
                if let Some(link) = self.link(connection) {
                    link.transport.compress(level, link.output.pending_bytes());
                }
            }
            Effect::PeerReady {
                connection,
                server_id,
                server_name,
                carries,
                headers,
                traces,
                permissions,
            } => {
                let Some(link) = self.link(connection) else { return };
                let may_tell = self.may_tell(permissions);
                {
                    let mut about = link.about.lock();
                    (about.remote_id, about.name) = (server_id, server_name);
                    if let Carries::Account(name) = &carries {
                        about.account = name.clone();
                    }
                }
                link.set(FLAG_ACCOUNT_IMPLIED, matches!(carries, Carries::Account(_)));
                link.set(FLAG_HEADERS, headers);
                link.set(FLAG_NO_TRACES, !traces);
                if let Carries::Account(name) = &carries {
                    // so that its interest is told even before anybody here uses it
                    self.broker.account(name);
                }
                let carries = Arc::new(move |account: &str| cluster::interest::carries(&carries, account));
                self.broker.add_route(&link, RouteRules { carries, may_tell }, dirty);
            }
            Effect::Close { connection, reason } => {
                if let Some(link) = self.link(connection) {
                    self.broker.remove_route(&link, dirty);
                    link.output.flush(&*link.transport);
                    link.close(reason);
                }
            }
            // both sides begin anew: the one that dialled dials again, and interest is told by the new rules
            Effect::PeerPermissions { connection, .. } => {
                if let Some(link) = self.link(connection) {
                    link.close(CloseReason::RouteRemoved);
                }
            }
            effect => self.outside.effect(effect),
        }
    }
}
