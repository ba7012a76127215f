use std::time::Duration;

use super::issue::renew;
use super::*;
use crate::rollout::{Health, Server};

const HOUR: Duration = Duration::from_secs(3600);

fn asked() -> Asked {
    Asked {
        lifetimes: SelfSigned {
            validity: HOUR * 2160,
            renew_before: HOUR * 720,
            authority_validity: HOUR * 43800,
            overlap: HOUR * 24,
        },
        names: vec![
            "orders.shop.svc".to_owned(),
            "*.orders-headless.shop.svc".to_owned(),
            "127.0.0.1".to_owned(),
        ],
        rotate_certificates: None,
        rotate_authority: None,
    }
}

fn at(hours: u64) -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("a time") + HOUR * u32::try_from(hours).expect("hours")
}

/// Servers that show these certificates.
fn showing(shown: &[Option<Timestamp>]) -> Observed {
    let server = |(ordinal, shown): (usize, &Option<Timestamp>)| Server {
        ordinal: u32::try_from(ordinal).expect("few"),
        template: String::new(),
        config: None,
        health: Health::Ready,
        leaving: false,
        routes: None,
        state_age: Duration::ZERO,
        reload_age: None,
        version: None,
        trouble: None,
        certificate_not_after: *shown,
        zone: None,
    };
    Observed { servers: shown.iter().enumerate().map(server).collect(), ..Observed::default() }
}

fn shown(state: &State) -> Observed {
    let end = not_after(&state.server.data[key::TLS_CRT]);
    showing(&[end, end, end])
}

#[test]
fn a_new_cluster_gets_an_authority_and_a_certificate_and_keeps_them() {
    let renewed = renew(&asked(), &State::default(), &showing(&[]), at(0)).expect("made");
    assert_eq!((renewed.step, renewed.issued), (Step::Found, true));
    let state = renewed.state;
    assert_eq!(not_after(&state.server.data[key::TLS_CRT]), Some(at(2160)));
    assert_eq!(state.server.data[key::CA_CRT], state.authority.data[key::CA_CRT]);
    assert!(dns_names(&state.server.data[key::TLS_CRT]).contains(&"orders.shop.svc".to_owned()));
    let again = renew(&asked(), &state, &shown(&state), at(1)).expect("made");
    assert_eq!((again.step, again.issued, again.state), (Step::Keep, false, state));
}

#[test]
fn a_certificate_is_renewed_before_its_end_and_for_new_names_and_on_request() {
    let state = renew(&asked(), &State::default(), &showing(&[]), at(0)).expect("made").state;
    let issued = |asked: &Asked, hours| renew(asked, &state, &shown(&state), at(hours)).expect("made").issued;
    assert!(!issued(&asked(), 1439));
    assert!(issued(&asked(), 1441));
    let named = Asked { names: vec!["other".to_owned()], ..asked() };
    assert!(issued(&named, 1));
    let wished = Asked { rotate_certificates: Some("now".to_owned()), ..asked() };
    assert!(issued(&wished, 1));
}

#[test]
fn a_certificate_of_somebody_else_is_checked_before_servers_get_it() {
    let mut files = renew(&asked(), &State::default(), &showing(&[]), at(0)).expect("made").state.server;
    let check = |files: &Stored, name| super::check(files, "Secret mine", name);
    assert_eq!(check(&files, Some("a.orders-headless.shop.svc")), Ok(()));
    let wrong = check(&files, Some("billing-headless.shop.svc")).expect_err("another name");
    assert!(
        wrong.contains("is not for billing-headless.shop.svc") && wrong.contains("orders.shop.svc"),
        "{wrong}"
    );
    files.data.insert(key::TLS_CRT.to_owned(), "x".to_owned());
    assert_eq!(check(&files, None), Err("tls.crt of Secret mine is no certificate in PEM".to_owned()));
    files.data.remove(key::CA_CRT);
    assert!(check(&files, None).expect_err("incomplete").starts_with("Secret mine has no ca.crt"));
}

#[test]
fn what_others_change_in_it_is_made_anew() {
    let mut state = renew(&asked(), &State::default(), &showing(&[]), at(0)).expect("made").state;
    state.server.data.insert(key::CA_CRT.to_owned(), "mine".to_owned());
    let renewed = renew(&asked(), &state, &shown(&state), at(1)).expect("made");
    assert!(renewed.issued && renewed.step == Step::Keep);
    assert_eq!(renewed.state.server.data[key::CA_CRT], state.authority.data[key::CA_CRT]);
}

/// The whole of a rotation: nobody ever meets a certificate whose authority it does not trust.
#[test]
fn a_new_authority_is_trusted_before_it_signs_and_the_old_one_after() {
    let mut state = renew(&asked(), &State::default(), &showing(&[]), at(0)).expect("made").state;
    let wish = Asked { rotate_authority: Some("1".to_owned()), ..asked() };
    let mut steps = Vec::new();
    let mut hours = 1;
    // Servers show what was issued three hours before.
    let mut history = vec![shown(&state); 4];
    while hours < 120 {
        let seen = history[history.len() - 4].clone();
        let renewed = renew(&wish, &state, &seen, at(hours)).expect("made");
        // A server still holds what was issued three rounds ago, another the newest: each trusts the other.
        let old_bundle = &state.server.data[key::CA_CRT];
        let signer = &renewed.state.authority.data[key::CA_CRT];
        if renewed.step == Step::Promote {
            assert!(all_show(&state, &seen), "signs before all servers trust it");
        }
        assert!(old_bundle.contains(signer.as_str()), "{:?}: a certificate nobody trusts", renewed.step);
        if renewed.step != Step::Keep {
            assert!(renewed.issued, "servers could not be seen to have loaded {:?}", renewed.step);
            steps.push((renewed.step, hours));
        }
        state = renewed.state;
        history.push(shown(&state));
        hours += 1;
    }
    assert_eq!(steps, [(Step::Introduce, 1), (Step::Promote, 25), (Step::Retire, 49)]);
    assert_eq!(rotation(&state), None);
    assert_eq!(state.server.data[key::CA_CRT].matches("BEGIN").count(), 1);
}

#[test]
fn a_server_that_does_not_show_the_certificate_holds_everything_up() {
    let state = renew(&asked(), &State::default(), &showing(&[]), at(0)).expect("made").state;
    let wish = Asked { rotate_authority: Some("1".to_owned()), ..asked() };
    let state = renew(&wish, &state, &shown(&state), at(1)).expect("made").state;
    let end = not_after(&state.server.data[key::TLS_CRT]);
    for silent in [None, Some(at(7))] {
        let renewed = renew(&wish, &state, &showing(&[end, silent, end]), at(1000)).expect("made");
        assert_eq!(renewed.step, Step::Keep);
    }
    assert_eq!(renew(&wish, &state, &shown(&state), at(1000)).expect("made").step, Step::Promote);
    assert_eq!(renew(&wish, &state, &shown(&state), at(20)).expect("made").step, Step::Keep, "overlap");
}

#[test]
fn servers_that_never_show_a_certificate_are_asked_less_and_less_often() {
    let state = renew(&asked(), &State::default(), &showing(&[]), at(0)).expect("made").state;
    let pause = |seconds: u32| {
        let now = at(0) + Duration::from_secs(1) * seconds;
        look_again(&asked(), &state, &showing(&[None]), now).as_secs()
    };
    assert_eq!((pause(1), pause(40), pause(3600)), (2, 10, 60));
}

#[test]
fn a_certificate_that_somebody_else_renewed_is_looked_for_until_all_servers_show_it() {
    let state = renew(&asked(), &State::default(), &showing(&[]), at(0)).expect("made").state;
    let file = &state.server.data[key::TLS_CRT];
    let pause = |shown: Option<Timestamp>| {
        let servers = showing(&[not_after(file), shown]);
        look_again_at_foreign(file, &servers, at(0)).map(|pause| pause.as_secs())
    };
    assert_eq!(pause(Some(at(7))), Some(2));
    assert_eq!(pause(not_after(file)), None);
    assert_eq!(pause(None), None, "it does not say");
}

#[test]
fn an_authority_is_replaced_before_a_certificate_would_outlive_it() {
    let state = renew(&asked(), &State::default(), &showing(&[]), at(0)).expect("made").state;
    let step = |hours| step(&asked(), &state, &shown(&state), at(hours));
    assert_eq!(step(43800 - 2160 - 48 - 1), Step::Keep);
    assert_eq!(step(43800 - 2160 - 48 + 1), Step::Introduce);
}

#[test]
fn an_authority_that_somebody_broke_is_made_anew() {
    let mut state = renew(&asked(), &State::default(), &showing(&[]), at(0)).expect("made").state;
    state.authority.data.insert(key::CA_CRT.to_owned(), "broken".to_owned());
    let renewed = renew(&asked(), &state, &shown(&state), at(1)).expect("made");
    assert_eq!((renewed.step, renewed.issued), (Step::Found, true));
}

/// Rotates authorities.
type Rotator = fn(&Asked, &State, &Observed) -> (Asked, Observed);

/// Two rotations, with three servers that load what was issued now or much later, each by its own luck:
/// whatever two of them hold, they trust each other.
fn live(mutate: Rotator, seed: u64) -> Result<(), String> {
    let short = |wish: &str| {
        let mut asked = Asked { rotate_authority: Some(wish.to_owned()), ..asked() };
        asked.lifetimes.overlap = HOUR * 3;
        asked
    };
    let mut luck = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut chance = |one_in: u64| {
        luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (luck >> 33).is_multiple_of(one_in)
    };
    let mut state = renew(&short(""), &State::default(), &showing(&[]), at(0)).expect("made").state;
    let mut held = vec![state.clone(); 3];
    for hour in 1..120 {
        let wish = short(if hour < 60 { "1" } else { "2" });
        let ends: Vec<_> = held.iter().map(|held| not_after(&held.server.data[key::TLS_CRT])).collect();
        let (asked, observed) = mutate(&wish, &state, &showing(&ends));
        state = renew(&asked, &state, &observed, at(hour)).expect("made").state;
        for server in &mut held {
            if chance(4) {
                *server = state.clone();
            }
        }
        for (a, one) in held.iter().enumerate() {
            for (b, other) in held.iter().enumerate() {
                let signer = other.authority.data[key::CA_CRT].as_str();
                if !one.server.data[key::CA_CRT].contains(signer) {
                    return Err(format!("hour {hour}: server {a} does not trust server {b}"));
                }
            }
        }
    }
    let done = rotation(&state).is_none() && state.authority.notes[note::ROTATED] == "2";
    if done { Ok(()) } else { Err("does not come to its end".to_owned()) }
}

fn verdict(mutate: Rotator) -> Result<(), String> {
    (0..24).try_for_each(|seed| live(mutate, seed).map_err(|error| format!("seed {seed}: {error}")))
}

#[test]
fn servers_trust_each_other_through_every_rotation_and_broken_rotators_are_caught() {
    assert_eq!(verdict(|asked, _, observed| (asked.clone(), observed.clone())), Ok(()));
    // Has the next authority sign before every server trusts it.
    let signs_early: Rotator = |asked, state, observed| match rotation(state) {
        Some("Introducing") => (asked.clone(), shown(state)),
        _ => (asked.clone(), observed.clone()),
    };
    // Forgets the old authority while a server still shows a certificate of it.
    let forgets_early: Rotator = |asked, state, observed| match rotation(state) {
        Some("Retiring") => (asked.clone(), shown(state)),
        _ => (asked.clone(), observed.clone()),
    };
    // Waits for a server that is never seen to load anything.
    let sees_nothing: Rotator = |asked, _, _| (asked.clone(), showing(&[None]));
    for (name, mutant, crime) in [
        ("signs early", signs_early, "does not trust"),
        ("forgets early", forgets_early, "does not trust"),
        ("sees nothing", sees_nothing, "does not come to its end"),
    ] {
        let reason = verdict(mutant).expect_err(name);
        assert!(reason.contains(crime), "{name} was caught for {reason}");
    }
}
