//! The plan's promises, over random histories of a cluster that is scaled, changed, broken and repaired.
//!
//! A small world stands in for Kubernetes: it keeps the number of servers that it is told, as a
//! StatefulSet does, and its servers start, crash, hide from us and leave. The same checks run against
//! broken planners, which must be caught: a check that cannot fail proves nothing.

use std::time::Duration;

use operator::build::config::Reload;
use operator::rollout::{Health, Observed, Plan, Server, Step, Target, Wait, plan};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

/// Longest that a cluster of the size below takes for everything, in rounds of one second.
const ROUNDS_MAX: usize = 400;
const SERVERS_MAX: u32 = 6;

/// Something that happens to a cluster between two looks.
#[derive(Clone, Debug)]
enum Happening {
    /// The user asks for another number of servers; 0 hibernates.
    Scale(u32),
    /// The user changes the template; a bad one never becomes ready.
    Template { bad: bool },
    /// The user changes a setting that servers can reload; a bad one is never loaded by a running server.
    Config { bad: bool },
    /// The user pauses or goes on.
    Pause(bool),
    /// A server stops working.
    Crash(u32),
    /// Our way to a server is cut, or works again.
    Hide(u32, bool),
    /// Somebody deletes a pod.
    Delete(u32),
    /// Somebody scales the workload behind our back.
    ForeignScale(u32),
    /// The workload's controller falls behind, or catches up.
    Lag(bool),
    /// Time passes.
    Seconds(u8),
}

#[derive(Clone, Debug)]
struct Pod {
    template: u32,
    config: u32,
    works: bool,
    hidden: bool,
    /// Seconds until it works, or is gone.
    left: u8,
    leaving: bool,
    age: u64,
    /// Configuration that it was told to load, and seconds since.
    told: Option<(u32, u64)>,
}

#[derive(Clone, Debug)]
struct World {
    target: Target,
    template: u32,
    bad_templates: Vec<u32>,
    config: u32,
    bad_configs: Vec<u32>,
    lag: bool,
    workload: Option<u32>,
    pods: std::collections::BTreeMap<u32, Pod>,
}

impl World {
    fn new() -> Self {
        let target = Target {
            servers: 3,
            template: "0".to_owned(),
            config: "0".to_owned(),
            paused: false,
            automatic: true,
            reload: Reload::Possible,
            reload_time_max: Duration::from_secs(10),
            ready_min: Duration::from_secs(2),
            gate_timeout: Duration::from_secs(60),
        };
        Self {
            target,
            template: 0,
            bad_templates: Vec::new(),
            config: 0,
            bad_configs: Vec::new(),
            lag: false,
            workload: None,
            pods: std::collections::BTreeMap::new(),
        }
    }

    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Scale(servers) => self.target.servers = *servers,
            Happening::Template { bad } => {
                self.template += 1;
                self.target.template = self.template.to_string();
                if *bad {
                    self.bad_templates.push(self.template);
                }
            }
            Happening::Config { bad } => {
                self.config += 1;
                self.target.config = self.config.to_string();
                if *bad {
                    self.bad_configs.push(self.config);
                }
            }
            Happening::Pause(paused) => self.target.paused = *paused,
            Happening::Crash(ordinal) => {
                if let Some(pod) = self.pods.get_mut(ordinal) {
                    (pod.works, pod.left, pod.age) = (false, 3, 0);
                }
            }
            Happening::Hide(ordinal, hidden) => {
                if let Some(pod) = self.pods.get_mut(ordinal) {
                    pod.hidden = *hidden;
                }
            }
            Happening::Delete(ordinal) => self.leave(*ordinal),
            Happening::ForeignScale(servers) => {
                if self.workload.is_some() {
                    self.workload = Some(*servers);
                }
            }
            Happening::Lag(lag) => self.lag = *lag,
            Happening::Seconds(seconds) => (0..*seconds).for_each(|_| self.second()),
        }
    }

    fn leave(&mut self, ordinal: u32) {
        if let Some(pod) = self.pods.get_mut(&ordinal).filter(|pod| !pod.leaving) {
            (pod.leaving, pod.left, pod.age) = (true, 4, 0);
        }
    }

    /// The workload's controller and the kubelets do their work.
    fn second(&mut self) {
        let wanted = self.workload.unwrap_or(0);
        let surplus: Vec<u32> = self.pods.keys().copied().filter(|ordinal| *ordinal >= wanted).collect();
        surplus.into_iter().for_each(|ordinal| self.leave(ordinal));
        self.pods.retain(|_, pod| !(pod.leaving && pod.left == 0));
        for ordinal in 0..wanted {
            let (template, config) = (self.template, self.config);
            self.pods.entry(ordinal).or_insert(Pod {
                template,
                config,
                works: false,
                hidden: false,
                left: 2,
                leaving: false,
                age: 0,
                told: None,
            });
        }
        for pod in self.pods.values_mut() {
            pod.age += 1;
            pod.left = pod.left.saturating_sub(1);
            let good = !self.bad_templates.contains(&pod.template);
            if pod.left == 0 && !pod.works && !pod.leaving && good {
                (pod.works, pod.age) = (true, 0);
            }
            // The file takes its time to the server.
            if let Some((config, since)) = &mut pod.told {
                *since += 1;
                if *since >= 3 && pod.works && !self.bad_configs.contains(config) {
                    pod.config = *config;
                }
            }
        }
    }

    fn observe(&self) -> Observed {
        let working = self.pods.values().filter(|pod| pod.works).count();
        let routes = u32::try_from(working).unwrap_or(0).saturating_sub(1);
        let server = |(ordinal, pod): (&u32, &Pod)| Server {
            ordinal: *ordinal,
            template: pod.template.to_string(),
            config: (pod.works && !pod.hidden).then(|| pod.config.to_string()),
            health: match (pod.works, pod.hidden) {
                (false, _) => Health::Unready,
                (true, true) => Health::Unknown,
                (true, false) => Health::Ready,
            },
            leaving: pod.leaving,
            routes: (!pod.hidden).then_some(routes),
            state_age: Duration::from_secs(pod.age),
            reload_age: pod
                .told
                .filter(|(config, _)| *config == self.config)
                .map(|(_, since)| Duration::from_secs(since)),
            version: None,
            trouble: None,
            certificate_not_after: None,
            zone: None,
        };
        Observed {
            workload_servers: self.workload,
            workload_current: self.workload.is_some() && !self.lag,
            servers: self.pods.iter().map(server).collect(),
        }
    }

    /// Carries a plan out, after checking that it keeps the promises.
    fn carry_out(&mut self, plan: &Plan) -> Result<(), TestCaseError> {
        self.check(plan)?;
        match &plan.step {
            Step::Done | Step::Wait(_) => {}
            Step::Grow { .. } | Step::Shrink { .. } | Step::Stop => {
                self.workload = Some(plan.workload_servers)
            }
            Step::Reload { ordinal } => {
                if let Some(pod) = self.pods.get_mut(ordinal) {
                    pod.told = Some((self.config, 0));
                }
            }
            Step::Replace { ordinal, .. } => self.leave(*ordinal),
        }
        Ok(())
    }

    fn check(&self, plan: &Plan) -> Result<(), TestCaseError> {
        let before = self.workload.unwrap_or(0);
        let changes = !matches!(plan.step, Step::Done | Step::Wait(_));
        prop_assert!(!(self.target.paused && changes), "paused, and yet {:?}", plan.step);
        let victim = match &plan.step {
            Step::Replace { ordinal, .. } => Some(*ordinal),
            Step::Shrink { from, to } => {
                prop_assert_eq!((*from, *to), (before, before - 1), "one at a time");
                prop_assert!(*to >= self.target.servers);
                Some(*to)
            }
            Step::Stop => {
                prop_assert_eq!(self.target.servers, 0, "only hibernation stops all");
                None
            }
            Step::Grow { from, to } => {
                prop_assert!(from == &before && to > from && *to == self.target.servers);
                None
            }
            Step::Reload { ordinal } => {
                // A change that one server does not take never reaches another.
                let told = |pod: &&Pod| pod.told.is_some_and(|(config, _)| config == self.config);
                let waited_for =
                    self.pods.values().filter(told).any(|pod| pod.works && pod.config != self.config);
                prop_assert!(!waited_for, "tells {} while another has not loaded it", ordinal);
                None
            }
            Step::Done | Step::Wait(_) => {
                prop_assert_eq!(plan.workload_servers, before, "nobody asked for another number");
                None
            }
        };
        let Some(victim) = victim else { return Ok(()) };
        if let Step::Replace { .. } = plan.step {
            let pod = self.pods.get(&victim);
            prop_assert!(pod.is_some_and(|pod| !pod.leaving), "replaces what is not there");
            prop_assert!(pod.is_some_and(|pod| pod.template != self.template), "replaces what is new");
        }
        // The promise: a server that works is only disturbed while all others that are to stay work.
        if self.pods.get(&victim).is_some_and(|pod| pod.works) {
            prop_assert!(
                self.pods.values().all(|pod| !pod.leaving),
                "takes down {} while one leaves",
                victim
            );
            let stay = if plan.workload_servers < before { self.target.servers } else { before };
            let others = (0..stay).filter(|ordinal| *ordinal != victim);
            for ordinal in others {
                let works = self.pods.get(&ordinal).is_some_and(|pod| pod.works && !pod.leaving);
                prop_assert!(works, "takes down {} while {} is down", victim, ordinal);
            }
        }
        Ok(())
    }
}

type Planner = fn(&Target, &Observed) -> Plan;

/// Lives through a history, then through a quiet time in which the cluster must become what was asked for.
fn live(planner: Planner, history: &[Happening]) -> Result<(), TestCaseError> {
    let mut world = World::new();
    for happening in history {
        world.happen(happening);
        let plan = planner(&world.target, &world.observe());
        world.carry_out(&plan)?;
    }
    // Whatever was broken, the user asks for something sound in the end, and nothing else happens.
    world.happen(&Happening::Template { bad: false });
    world.happen(&Happening::Config { bad: false });
    world.happen(&Happening::Pause(false));
    world.happen(&Happening::Lag(false));
    (0..SERVERS_MAX).for_each(|ordinal| world.happen(&Happening::Hide(ordinal, false)));
    for _ in 0..ROUNDS_MAX {
        world.second();
        let plan = planner(&world.target, &world.observe());
        if plan.step == Step::Done {
            return is_sound(&world);
        }
        world.carry_out(&plan)?;
    }
    Err(TestCaseError::fail(format!("does not converge: {world:?}")))
}

fn is_sound(world: &World) -> Result<(), TestCaseError> {
    let servers: Vec<u32> = world.pods.keys().copied().collect();
    let wanted: Vec<u32> = (0..world.target.servers).collect();
    prop_assert_eq!(servers, wanted);
    for pod in world.pods.values() {
        prop_assert!(
            pod.works && !pod.leaving && pod.template == world.template && pod.config == world.config
        );
    }
    Ok(())
}

fn happening() -> impl Strategy<Value = Happening> {
    let ordinal = 0..SERVERS_MAX;
    prop_oneof![
        2 => (0..=SERVERS_MAX).prop_map(Happening::Scale),
        2 => any::<bool>().prop_map(|bad| Happening::Template { bad }),
        2 => any::<bool>().prop_map(|bad| Happening::Config { bad }),
        1 => any::<bool>().prop_map(Happening::Pause),
        2 => ordinal.clone().prop_map(Happening::Crash),
        1 => (ordinal.clone(), any::<bool>()).prop_map(|(ordinal, hidden)| Happening::Hide(ordinal, hidden)),
        1 => ordinal.prop_map(Happening::Delete),
        1 => (0..=SERVERS_MAX).prop_map(Happening::ForeignScale),
        1 => any::<bool>().prop_map(Happening::Lag),
        12 => (1..12_u8).prop_map(Happening::Seconds),
    ]
}

fn histories() -> impl Strategy<Value = Vec<Happening>> {
    prop::collection::vec(happening(), 0..60)
}

proptest! {
    #![proptest_config(Config { cases: 600, failure_persistence: None, ..Config::default() })]

    /// Never two servers down by our doing, nothing while paused, and from any state to what was asked for.
    #[test]
    fn the_plan_keeps_its_promises(history in histories()) {
        live(plan, &history)?;
    }

    /// A plan depends on what is seen and nothing else, so a killed operator loses nothing.
    #[test]
    fn the_plan_is_a_function(history in histories()) {
        let mut world = World::new();
        for happening in &history {
            world.happen(happening);
            let observed = world.observe();
            prop_assert_eq!(plan(&world.target, &observed), plan(&world.target.clone(), &observed.clone()));
            world.carry_out(&plan(&world.target, &observed))?;
        }
    }
}

/// How the checks judge a planner, over the same histories every time.
fn verdict(planner: Planner) -> Result<(), String> {
    let config = Config { cases: 600, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner.run(&histories(), |history| live(planner, &history)).map_err(|error| match error {
        TestError::Fail(reason, _) => reason.to_string(),
        TestError::Abort(reason) => reason.to_string(),
    })
}

fn healed(observed: &Observed) -> Observed {
    let mut observed = observed.clone();
    for server in &mut observed.servers {
        server.health = Health::Ready;
        server.routes = Some(SERVERS_MAX);
    }
    observed
}

#[test]
fn broken_planners_are_caught() {
    // Takes broken servers for sound ones, and so takes down the next.
    let blind: Planner = |target, observed| {
        let plan = plan(target, observed);
        let blind = operator::rollout::plan(target, &healed(observed));
        if matches!(blind.step, Step::Replace { .. } | Step::Shrink { .. }) { blind } else { plan }
    };
    // Does not see that a server leaves already.
    let hasty: Planner = |target, observed| {
        let mut observed = observed.clone();
        observed.servers.iter_mut().for_each(|server| server.leaving = false);
        plan(target, &observed)
    };
    // Lets all surplus servers go at once.
    let greedy: Planner = |target, observed| {
        let mut plan = plan(target, observed);
        if let Step::Shrink { to, .. } = &mut plan.step {
            *to = target.servers;
            plan.workload_servers = target.servers;
        }
        plan
    };
    // Does not know pauses.
    let deaf: Planner = |target, observed| plan(&Target { paused: false, ..target.clone() }, observed);
    // Never replaces anything.
    let idle: Planner = |target, observed| {
        let plan = plan(target, observed);
        if matches!(plan.step, Step::Replace { .. }) {
            Plan { step: Step::Wait(Wait::Workload), ..plan }
        } else {
            plan
        }
    };
    // Takes a server that was told to reload for one that has.
    let trusting: Planner = |target, observed| {
        let mut observed = observed.clone();
        for server in observed.servers.iter_mut().filter(|server| server.reload_age.is_some()) {
            server.config = Some(target.config.clone());
        }
        plan(target, &observed)
    };
    for (name, mutant, crime) in [
        ("blind", blind, "takes down"),
        ("hasty", hasty, "replaces what is not there"),
        ("greedy", greedy, "one at a time"),
        ("deaf", deaf, "paused"),
        ("idle", idle, "does not converge"),
        ("trusting", trusting, "while another has not loaded it"),
    ] {
        let reason = verdict(mutant).expect_err(name);
        assert!(reason.contains(crime), "{name} was caught for {reason}");
    }
}
