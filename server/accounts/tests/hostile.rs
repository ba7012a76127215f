//! No bytes of a peer make this room panic, and none of them let it in.

use accounts::resolver::{Directory, DirectorySettings, Request};
use accounts::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn tokens_of_any_text(text in "\\PC{0,200}", parts in prop::collection::vec("[A-Za-z0-9_-]{0,60}", 0..5)) {
        for token in [text, parts.join(".")] {
            prop_assert!(jwt::user(&token).is_err());
            prop_assert!(jwt::account(&token).is_err());
            prop_assert!(jwt::operator(&token).is_err());
            prop_assert!(jwt::activation(&token).is_err());
            prop_assert!(jwt::generic(&token).is_err());
        }
    }

    #[test]
    fn tokens_of_any_json(body in "[\\[\\]{}\",:a-z0-9.-]{0,80}") {
        let encode = |text: &str| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
        let header = encode(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
        for claims in [body.clone(), format!(r#"{{"nats":{{{body}}}}}"#), format!(r#"{{"type":"user",{body}}}"#)] {
            let token = format!("{header}.{}.AAAA", encode(&claims));
            prop_assert!(jwt::user(&token).is_err());
        }
    }

    #[test]
    fn certificates_of_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = CertificateNames::from_der(&bytes);
    }

    #[test]
    fn credentials_of_any_text(text in prop::collection::vec("\\PC{0,40}", 7)) {
        let user = UserSource {
            login: Login::Password { user: "CN=a,O=b".into(), password: "a password nobody guesses".into() },
            permissions: None,
            connection_types: vec![],
            proxy_required: false,
        };
        let mut source = AccountsSource::default();
        source.authorization.users = vec![user];
        source.authorization.trusted_proxies = vec!["not a key".into()];
        let table = Table::new(source, 0).unwrap();
        let credentials = Credentials {
            user: &text[0],
            password: &text[1],
            token: &text[2],
            nkey: &text[3],
            signature: &text[4],
            jwt: &text[5],
            proxy_signature: &text[6],
        };
        let peer = Peer { nonce: b"n", connection: ConnectionType::Standard, certificate: None, address: None };
        prop_assert!(table.authenticate(&credentials, &peer, 0).is_err());
        prop_assert!(!table.is_slow(&credentials));
    }

    #[test]
    fn requests_of_any_subject(subject in "[$A-Z.*>]{0,40}") {
        let _ = Request::parse(&subject);
        let settings = DirectorySettings { operator: subject, ..Default::default() };
        prop_assert!(Directory::new(&settings).is_err());
    }
}
