//! Why a condition has its status, and what an Event is about: every CamelCase word that users and their tools
//! match.
//!
//! Owns the words. [`crate::status`] and [`crate::tenancy`] say when; none is made up elsewhere. `tests/reasons.rs`
//! shows each with the message that the user sees, and fails for one without.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// As it is written.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Reason::$name => stringify!($name),)*
                }
            }
        }
    };
}

reasons! {
    // Of what goes as it should.
    /// All servers are ready and as asked for.
    AllServersReady,
    /// Nothing to do.
    Done,
    /// `spec.paused` is true.
    Paused,
    /// `spec.hibernated` is true and no server runs.
    Hibernated,
    /// All servers stop.
    Hibernating,
    /// Servers join.
    ScalingUp,
    /// A server leaves.
    ScalingDown,
    /// Servers load a changed configuration.
    Reloading,
    /// Servers are replaced.
    RollingUpdate,
    /// A server is not as it should be, and nothing was changed.
    WaitingForServers,
    /// No help is needed.
    Progressing,

    // Of what does not, without somebody's help.
    /// The spec cannot be carried out.
    InvalidSpec,
    /// The version asked for is too far from the one that runs.
    VersionSkew,
    /// The server would not start with the configuration.
    ConfigRejected,
    /// A running server did not take the configuration.
    ReloadRefused,
    /// A server does not become healthy.
    RolloutGateTimeout,
    /// A server's pod does not end.
    ServerNotLeaving,
    /// A Secret that the spec names does not exist, or lacks a key.
    SecretMissing,
    /// The certificate in a Secret is of no use.
    CertificateInvalid,
    /// `spec.tls.mode` is CertManager and there is none.
    CertManagerMissing,
    /// An object of the name that we need is somebody else's.
    NameTaken,
    /// Written for another version of the CRD.
    Unreadable,

    // Of Available.
    /// Some server takes clients.
    MinimumServers,
    /// None does.
    NoServers,
    /// None does any more.
    Unavailable,

    // Of ConfigApplied, CertificatesReady, Synced.
    /// Every server has it.
    Applied,
    /// Servers are to be replaced.
    RestartRequired,
    /// Servers are to load it.
    ReloadPending,
    /// Servers do not tell.
    NotReported,
    /// It is not carried out.
    Rejected,
    /// There is no TLS.
    Disabled,
    /// There is no certificate yet.
    Missing,
    /// The certificate ended.
    CertificateExpired,
    /// The certificate ends soon.
    CertificateExpiring,
    /// Servers show another certificate.
    NotLoaded,
    /// The authority changes.
    Rotating,
    /// Every server shows the newest certificate.
    Valid,

    // Of steps.
    /// Servers join.
    ScaleUp,
    /// A server leaves.
    ScaleDown,
    /// A server loads a changed configuration.
    ConfigReloaded,
    /// A server is replaced.
    ServerRestarting,
    /// All servers run the newest.
    RolloutCompleted,
    /// The cluster became ready.
    Ready,
    /// A certificate or an authority was made.
    CertificateRotated,

    // Of accounts and users.
    /// Every server knows the account.
    Known,
    /// Every server lets the user in.
    Accepted,
    /// Not every server has it yet.
    Pending,
    /// The cluster lets everybody in.
    AuthDisabled,
    /// The user's account does not exist.
    AccountNotFound,
    /// The cluster does not exist.
    ClusterNotFound,
    /// The Secret for the credentials is somebody else's.
    SecretTaken,
    /// The user got credentials.
    CredentialsCreated,
    /// The user got new credentials.
    CredentialsRotated,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}
