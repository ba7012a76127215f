//! What is promised, with certificates and responses made on the spot.

mod answer;

use crate::*;
use answer::{Answer, must_staple, with_responder};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use std::time::Duration;

const NOW: i64 = 1_790_000_000_000;
const HOUR: i64 = 3_600_000;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::OrganizationName, "Test, Inc.");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn authority(name: &str) -> Authority {
    CertifiedIssuer::self_signed(authority_params(name), KeyPair::generate().unwrap()).unwrap()
}

fn read(der: &[u8]) -> Certificate {
    Certificate::from_der(der).unwrap()
}

fn issued(issuer: &Authority, params: CertificateParams) -> (Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    (read(params.signed_by(&key, issuer).unwrap().der()), key)
}

struct World {
    authority: Authority,
    issuer: Certificate,
    certificate: Certificate,
}

fn world() -> World {
    let authority = authority("authority");
    let issuer = read(authority.der());
    let (certificate, _) = issued(&authority, with_responder(params("peer"), "http://127.0.0.1:1/"));
    World { authority, issuer, certificate }
}

impl World {
    fn answer(&self, status: Status) -> Answer<'_> {
        Answer {
            certificate: &self.certificate,
            issuer: &self.issuer,
            signer: self.authority.key(),
            delegate: None,
            status,
            this_update: NOW,
            next_update: Some(NOW + HOUR),
            without_status: false,
        }
    }

    fn link(&self) -> Link {
        Link { certificate: self.certificate.clone(), issuer: self.issuer.clone() }
    }

    fn parse(&self, der: &[u8]) -> Result<Response, Error> {
        Response::parse(der, &self.certificate, &self.issuer)
    }
}

fn options() -> PeerOptions {
    PeerOptions {
        clock_skew: Duration::from_secs(30),
        warn_only: false,
        unknown_is_good: false,
        allow_when_unreachable: false,
        time_to_live: Duration::from_secs(3600),
    }
}

#[test]
fn the_facts_of_a_certificate_are_read() {
    let authority = authority("authority");
    let (plain, _) = issued(&authority, params("plain"));
    let full = must_staple(with_responder(params("full"), "http://ocsp.test/x"));
    let (full, _) = issued(&authority, full);
    assert_eq!(
        (plain.responders.len(), plain.must_staple, plain.is_authority, plain.may_sign_responses),
        (0, false, false, false)
    );
    assert!(full.must_staple && full.responders == ["http://ocsp.test/x"]);
    assert!(read(authority.der()).is_authority);
    assert!(
        full.subject_name.contains("O=Test\\, Inc.") && full.subject_name.contains("CN=full"),
        "{full:?}"
    );
    assert_eq!(full.issuer_name, read(authority.der()).subject_name);
    assert_eq!((full.file_name().len(), full.fingerprint().len()), (64, 44));
}

#[test]
fn a_response_of_the_authority_says_what_it_says() {
    let world = world();
    for status in [Status::Good, Status::Revoked, Status::Unknown] {
        let mut answer = world.answer(status);
        let response = Response { status, this_update_millis: NOW, next_update_millis: Some(NOW + HOUR) };
        assert_eq!(world.parse(&answer.der()), Ok(response));
        answer.next_update = None;
        assert_eq!(world.parse(&answer.der()), Ok(Response { next_update_millis: None, ..response }));
    }
}

#[test]
fn a_response_without_a_status_says_revoked() {
    let world = world();
    let der = Answer { without_status: true, ..world.answer(Status::Good) }.der();
    assert_eq!(world.parse(&der).map(|response| response.status), Ok(Status::Revoked));
}

#[test]
fn a_response_that_anybody_else_made_is_refused() {
    let world = world();
    let stranger = KeyPair::generate().unwrap();
    let answer = Answer { signer: &stranger, ..world.answer(Status::Good) };
    assert_eq!(world.parse(&answer.der()), Err(Error::Signature("the response")));

    // a delegate of somebody else's
    let other = authority("authority");
    let mut signs = params("signer");
    signs.extended_key_usages.push(ExtendedKeyUsagePurpose::OcspSigning);
    let (delegate, key) = issued(&other, signs.clone());
    let answer = Answer { signer: &key, delegate: Some(&delegate), ..world.answer(Status::Good) };
    assert_eq!(world.parse(&answer.der()), Err(Error::Signature("the signer of the response")));

    // a certificate of the authority's that it did not allow to sign, and one that it did
    let (server, key) = issued(&world.authority, params("server"));
    let answer = Answer { signer: &key, delegate: Some(&server), ..world.answer(Status::Good) };
    assert_eq!(world.parse(&answer.der()), Err(Error::NotDelegated));
    let (delegate, key) = issued(&world.authority, signs);
    let answer = Answer { signer: &key, delegate: Some(&delegate), ..world.answer(Status::Good) };
    assert!(world.parse(&answer.der()).is_ok());
}

#[test]
fn a_response_about_another_certificate_is_no_answer() {
    let world = world();
    let (other, _) = issued(&world.authority, params("other"));
    let answer = Answer { certificate: &other, ..world.answer(Status::Good) };
    assert_eq!(world.parse(&answer.der()), Err(Error::OtherCertificate));
}

#[test]
fn no_damage_makes_a_response_of_one() {
    let world = world();
    let whole = world.answer(Status::Good).der();
    for length in 0..whole.len() {
        assert!(world.parse(&whole[..length]).is_err(), "{length}");
    }
    for place in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x11;
        let parsed = world.parse(&damaged);
        // what is outside the signature may read the same; never may it say something else
        assert!(parsed.is_err() || parsed == world.parse(&whole), "{place}: {parsed:?}");
    }
    assert_eq!(world.parse(&[0x30, 3, 0x0a, 1, 3]), Err(Error::Responder("to try later")));
}

#[test]
fn who_staples_and_who_ends() {
    let staples = |ends| Plan { staples: true, ends_when_revoked: ends, disregards_demand: false };
    let nothing = Plan { staples: false, ends_when_revoked: false, disregards_demand: false };
    for (mode, demanded, expected) in [
        (None, true, staples(false)),
        (None, false, nothing),
        (Some(Mode::Auto), true, staples(false)),
        (Some(Mode::Auto), false, nothing),
        (Some(Mode::Must), true, staples(true)),
        (Some(Mode::Must), false, nothing),
        (Some(Mode::Always), true, staples(true)),
        (Some(Mode::Always), false, staples(true)),
        (Some(Mode::Never), false, nothing),
        (Some(Mode::Never), true, Plan { disregards_demand: true, ..nothing }),
    ] {
        assert_eq!(plan(mode, demanded), expected, "{mode:?} {demanded}");
    }
}

#[test]
fn a_response_is_renewed_at_half_of_its_time() {
    let seconds = |next: Option<i64>| next_look(next, NOW).as_secs();
    assert_eq!(seconds(Some(NOW + HOUR)), 1800);
    assert_eq!(seconds(Some(NOW - 1)), 120);
    assert_eq!(seconds(None), 24 * 3600);
    let response =
        |from, until| Response { status: Status::Good, this_update_millis: from, next_update_millis: until };
    assert!(check_validity(&response(NOW, Some(NOW)), NOW).is_ok());
    assert!(check_validity(&response(NOW, None), NOW).is_ok());
    assert!(check_validity(&response(NOW - HOUR, Some(NOW - 1)), NOW).is_err());
    assert!(check_validity(&response(NOW + 1, None), NOW).is_err());
}

#[test]
fn the_issuer_is_beside_the_certificate_or_in_ca_file() {
    let world = world();
    let other = authority("authority");
    let known = Authorities::new([other.der().as_ref(), world.authority.der()]).unwrap();
    let none = Authorities::default();
    let leaf = world.certificate.clone();
    assert_eq!(issuer(std::slice::from_ref(&leaf), &known), Ok(world.issuer.clone()));
    assert_eq!(issuer(std::slice::from_ref(&leaf), &none), Err(Error::NoIssuer));
    assert_eq!(issuer(&[leaf.clone(), world.issuer.clone()], &none), Ok(world.issuer.clone()));
    assert!(matches!(issuer(&[leaf.clone(), read(other.der())], &known), Err(Error::BadIssuer(_))));
    assert!(matches!(issuer(&[leaf.clone(), leaf], &known), Err(Error::BadIssuer(_))));
}

#[test]
fn each_certificate_below_the_authority_that_names_a_responder_is_asked_about() {
    let root = authority("root");
    let between = with_responder(authority_params("between"), "http://root.test");
    let between = CertifiedIssuer::signed_by(between, KeyPair::generate().unwrap(), &root).unwrap();
    let (silent, _) = issued(&between, params("silent"));
    let (asked, _) = issued(&between, with_responder(params("asked"), "ldap://x"));
    let (peer, _) = issued(&between, with_responder(params("peer"), "https://between.test"));
    let known = Authorities::new([root.der().as_ref()]).unwrap();
    let links = |peer: &Certificate| {
        let chain = known.chain(peer.der(), &[between.der()], Role::Client, NOW).unwrap();
        assert_eq!(chain.len(), 3);
        let links = Link::of_chain(&chain);
        links.iter().flat_map(|link| link.responders().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(links(&silent), ["http://root.test"]);
    assert_eq!(links(&asked), ["http://root.test"]);
    assert_eq!(links(&peer), ["https://between.test", "http://root.test"]);
    let stranger = Authorities::new([authority("root").der().as_ref()]).unwrap();
    let refused = stranger.chain(peer.der(), &[between.der()], Role::Client, NOW);
    assert!(matches!(refused, Err(Error::NoChain(_))), "{refused:?}");
}

#[test]
fn the_verdict_about_a_peer() {
    let world = world();
    let link = world.link();
    let is_valid = |status, options: &PeerOptions| {
        let der = world.answer(status).der();
        let (verdict, kept) = judge_answer(Ok(&der), false, &link, options, NOW);
        assert!(kept.is_some(), "a current response is worth keeping, whatever it says");
        verdict.invalid.is_none()
    };
    let plain = options();
    assert!(is_valid(Status::Good, &plain));
    assert!(!is_valid(Status::Revoked, &plain) && !is_valid(Status::Unknown, &plain));
    let lenient = PeerOptions { unknown_is_good: true, ..plain };
    assert!(is_valid(Status::Unknown, &lenient) && !is_valid(Status::Revoked, &lenient));
    let warning = PeerOptions { warn_only: true, ..plain };
    assert!(is_valid(Status::Unknown, &warning) && is_valid(Status::Revoked, &warning));

    let unreachable = |was_revoked, options: &PeerOptions| {
        judge_answer(Err("refused".into()), was_revoked, &link, options, NOW).0.invalid.is_none()
    };
    let allowing = PeerOptions { allow_when_unreachable: true, ..plain };
    assert!(!unreachable(false, &plain) && !unreachable(true, &plain));
    assert!(unreachable(false, &allowing) && !unreachable(true, &allowing));
    assert!(unreachable(true, &warning));

    // neither nonsense nor an old response is an answer, and neither is kept
    let old =
        Answer { this_update: NOW - 3 * HOUR, next_update: Some(NOW - HOUR), ..world.answer(Status::Good) };
    for (answer, reason) in [(old.der(), "effectivity"), (b"nonsense".to_vec(), "parse")] {
        let (verdict, kept) = judge_answer(Ok(&answer), false, &link, &plain, NOW);
        assert!(kept.is_none() && verdict.invalid.as_ref().is_some_and(|why| why.contains(reason)));
        assert!(judge_answer(Ok(&answer), false, &link, &warning, NOW).0.invalid.is_none());
    }
}

#[test]
fn a_response_counts_as_long_as_it_says_give_or_take_the_skew() {
    let world = world();
    let counts = |from: i64, until: Option<i64>| {
        let der = Answer { this_update: from, next_update: until, ..world.answer(Status::Good) }.der();
        matches!(judge_cached(&der, &world.link(), &options(), NOW), Cached::Current(_))
    };
    assert!(counts(NOW, Some(NOW + HOUR)));
    assert!(counts(NOW - HOUR, Some(NOW - 30_000)) && !counts(NOW - HOUR, Some(NOW - 31_000)));
    assert!(counts(NOW + 30_000, None) && !counts(NOW + 31_000, None));
    assert!(counts(NOW - HOUR - 30_000, None) && !counts(NOW - HOUR - 31_000, None));
    let revoked = Answer { this_update: 0, next_update: Some(1000), ..world.answer(Status::Revoked) }.der();
    let useless = judge_cached(&revoked, &world.link(), &options(), NOW);
    assert_eq!(useless, Cached::Useless { revoked: true });
}

#[test]
fn a_cache_is_the_same_after_a_restart() {
    let world = world();
    let der = world.answer(Status::Revoked).der();
    let response = world.parse(&der).unwrap();
    let key = world.certificate.fingerprint();
    let mut cache = Cache::new(false);
    assert_eq!((cache.get(&key), cache.save()), (None, None));
    cache.put(key.clone(), &world.certificate.subject_name, &der, &response, NOW);
    let text = cache.save().unwrap();
    assert_eq!(cache.save(), None, "nothing changed since");
    for preserves in [false, true] {
        let mut cache = Cache::load(&text, preserves).unwrap();
        assert_eq!(cache.get(&key).as_deref(), Some(&der[..]));
        cache.forget(&key);
        let kept = u64::from(preserves);
        let numbers = Statistics { responses: kept, revokes: kept, misses: 1, ..Statistics::default() };
        assert_eq!(cache.statistics(), numbers);
    }
    assert!(Cache::load(b"{", false).is_err());
}
