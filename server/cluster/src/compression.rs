//! Whether the bytes of a route are compressed, and how: what is configured, and what two servers agree on.
//!
//! Owns the rules of nats-server's negotiation. Never compresses.
//!
//! Either side may use another level than the other; what both have to agree on is only whether there is any. Who
//! dials says first what it chose, still in plain bytes; from its next byte on all that it sends is a stream, and from
//! then on all that it hears. Then the two introduce themselves as they do without compression.
//!
//! ```text
//! solicitor                          acceptor
//!                     <- INFO        with the mode that is configured there
//! CONNECT ->
//! INFO ->                            with the level chosen; the last plain bytes of both
//!                    <~ INFO         with the level chosen by the acceptor
//! INFO ~>                            and so on
//! ```

use std::time::Duration;
pub use wire::s2::Level;

/// `cluster.compression`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As a server that has never heard of it.
    NotSupported,
    /// None.
    #[default]
    Off,
    /// If the other side begins: at its level.
    Accept,
    /// By round-trip time: see [`Level::for_round_trip`].
    Auto(Vec<Duration>),
    /// At this level, unless the other side refuses.
    At(Level),
}

/// What became of it on one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Agreement {
    /// Nothing was agreed on yet.
    #[default]
    Open,
    /// The peer, or this server, knows none.
    NotSupported,
    /// Plain bytes.
    Off,
    /// Streams; this server writes at this level.
    At(Level),
}

impl Agreement {
    /// As it stands in `INFO` and `/routez`.
    pub fn name(self) -> &'static str {
        match self {
            Agreement::NotSupported => "not supported",
            Agreement::Open | Agreement::Off => "off",
            Agreement::At(level) => level.name(),
        }
    }
}

impl Compression {
    /// As it stands in `INFO`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Compression::NotSupported => "not supported",
            Compression::Off => "off",
            Compression::Accept => "accept",
            Compression::Auto(_) => "s2_auto",
            Compression::At(level) => level.name(),
        }
    }

    /// Whether there is anything to agree on. Without, a peer of any mode sends and expects plain bytes.
    pub(crate) fn is_negotiated(&self) -> bool {
        !matches!(self, Compression::NotSupported | Compression::Off)
    }

    /// The name for an `INFO` on a connection where `agreed` holds: who goes by the round trip says so.
    pub(crate) fn name_with(&self, agreed: Agreement) -> &'static str {
        match (self, agreed) {
            (Compression::Auto(_), _) | (_, Agreement::Open) => self.name(),
            (_, agreed) => agreed.name(),
        }
    }

    /// What holds with a peer that names the mode `theirs`.
    ///
    /// # Errors
    /// The peer names a mode that nobody knows.
    pub(crate) fn agree(&self, theirs: &str, round_trip: Duration) -> Result<Agreement, String> {
        if theirs.is_empty() || theirs == "not supported" || *self == Compression::NotSupported {
            return Ok(Agreement::NotSupported);
        }
        if !self.is_negotiated() {
            return Ok(Agreement::Off);
        }
        let theirs = match theirs {
            "off" => return Ok(Agreement::Off),
            "accept" if *self == Compression::Accept => return Ok(Agreement::Off),
            "accept" => None,
            // a level that goes by their round trips says nothing about ours
            "s2_auto" => Some(Level::Fast),
            name => match Level::from_name(name) {
                None => return Err(format!("unsupported route compression mode {name:?}")),
                level => level,
            },
        };
        Ok(match (self, theirs) {
            (Compression::At(level), _) => Agreement::At(*level),
            (Compression::Auto(thresholds), _) => {
                Agreement::At(Level::for_round_trip(round_trip, thresholds))
            }
            (_, Some(level)) => Agreement::At(level),
            (_, None) => Agreement::Off,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_modes_lead_to_what_nats_server_makes_of_them() {
        let auto = Compression::Auto([10, 50, 100].map(Duration::from_millis).to_vec());
        let (best, fast) = (Compression::At(Level::Best), Agreement::At(Level::Fast));
        let near = Duration::from_millis(1);
        for (ours, theirs, expected) in [
            (&Compression::Accept, "accept", Agreement::Off),
            (&Compression::Accept, "off", Agreement::Off),
            (&Compression::Accept, "", Agreement::NotSupported),
            (&Compression::Accept, "not supported", Agreement::NotSupported),
            (&Compression::Accept, "s2_fast", fast),
            (&Compression::Accept, "s2_uncompressed", Agreement::At(Level::Uncompressed)),
            (&Compression::Accept, "s2_auto", fast),
            (&best, "accept", Agreement::At(Level::Best)),
            (&best, "s2_fast", Agreement::At(Level::Best)),
            (&best, "off", Agreement::Off),
            (&auto, "accept", Agreement::At(Level::Uncompressed)),
            (&Compression::Off, "s2_fast", Agreement::Off),
            (&Compression::Off, "", Agreement::NotSupported),
            (&Compression::NotSupported, "s2_fast", Agreement::NotSupported),
        ] {
            assert_eq!(ours.agree(theirs, near), Ok(expected), "{ours:?} with {theirs:?}");
        }
        assert_eq!(auto.agree("accept", Duration::from_millis(51)), Ok(Agreement::At(Level::Better)));
        assert_eq!(best.agree("zip", near), Err("unsupported route compression mode \"zip\"".into()));
    }
}
