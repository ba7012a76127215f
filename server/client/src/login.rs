//! Who is it? The question that a CONNECT asks, and its answer.
//!
//! Owns everything that the answer depends on, so that it can be worked out in another thread: checking a bcrypt
//! hash takes tens of milliseconds, in which a worker moves a million messages.

use accounts::callout::Answered;
use accounts::{AuthError, CertificateNames, ConnectionType, Credentials, Identity, Peer, Reason, Table};
use broker::Link;
use std::sync::Arc;
use wire::info::Connect;

/// What a client says of itself, and what is known of it.
pub struct Question {
    /// Who may connect.
    pub table: Arc<Table>,
    /// What the client said.
    pub connect: Connect,
    /// The challenge that it signed, if it signed one.
    pub nonce: String,
    /// Its verified certificate (DER).
    pub certificate: Option<Vec<u8>>,
    /// When it asked, in nanoseconds since the Unix epoch.
    pub now_nanos: u64,
    /// Its connection.
    pub link: Arc<Link>,
}

/// Who the client is, or why it is nobody.
pub struct Answer {
    /// The verdict.
    pub identity: Result<Identity, AuthError>,
    /// What the client said.
    pub connect: Connect,
    /// Its connection.
    pub link: Arc<Link>,
}

impl Question {
    fn credentials(&self) -> Credentials<'_> {
        let connect = &self.connect;
        Credentials {
            user: &connect.user,
            password: &connect.pass,
            token: &connect.auth_token,
            nkey: &connect.nkey,
            signature: &connect.sig,
            jwt: &connect.jwt,
            proxy_signature: &connect.proxy_sig,
        }
    }

    /// Whether the answer takes too long for a thread that moves messages.
    pub fn is_slow(&self) -> bool {
        self.table.is_slow(&self.credentials())
    }

    /// Works the verdict out. [`AuthError::AccountNeeded`] is one to be asked again when the account's token was
    /// fetched.
    pub fn verdict(&self) -> Result<Identity, AuthError> {
        self.with_peer(|credentials, peer| self.table.authenticate(credentials, peer, self.now_nanos))
    }

    /// The verdict on what a callout service answered.
    pub fn verdict_on(&self, answered: &Answered<'_>) -> Result<Identity, AuthError> {
        self.with_peer(|credentials, peer| {
            self.table.authenticate_answered(answered, credentials, peer, self.now_nanos)
        })
    }

    fn with_peer<R>(&self, look: impl FnOnce(&Credentials<'_>, &Peer<'_>) -> R) -> R {
        let names = self.certificate.as_ref().and_then(|der| CertificateNames::from_der(der).ok());
        let peer = Peer {
            nonce: self.nonce.as_bytes(),
            connection: ConnectionType::Standard,
            certificate: names.as_ref(),
            address: self.link.about.lock().ip.parse().ok(),
        };
        look(&self.credentials(), &peer)
    }

    /// The answer that a verdict makes of it.
    pub fn with_verdict(self, identity: Result<Identity, AuthError>) -> Answer {
        Answer { identity, connect: self.connect, link: self.link }
    }

    /// The answer, if a thread that moves messages may work it out and nobody else need be asked.
    ///
    /// # Errors
    /// The question, to be left to the threads for logins.
    #[allow(clippy::result_large_err)] // it is moved on, not handled
    pub fn answer_now(self) -> Result<Answer, Question> {
        if self.is_slow() {
            return Err(self);
        }
        match self.verdict() {
            Err(AuthError::AccountNeeded(_) | AuthError::Callout(_)) => Err(self),
            // there may be a newer token of the account
            Err(AuthError::Refused(Reason::AccountExpired)) => Err(self),
            identity => Ok(self.with_verdict(identity)),
        }
    }
}
