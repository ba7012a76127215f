//! The loop of the local runner.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::file::{Source, load};
use super::process::{Template, Workload};
use super::screen::Screen;
use super::tenants::write_urls;
use super::{LocalError, certificates as local_certificates, leftovers};
use crate::build::config::{self, Fragment, Generation, Placement};
use crate::certificates::{self, Asked, Stored, issue};
use crate::crd::{Endpoint, NatsClusterStatus, condition};
use crate::observe::broker::Prober;
use crate::rollout::{self, Observed, Step, Target};
use crate::status::{self, Certificate, View};
use crate::tenancy::Outcome;
use crate::validate::{CertificateSource, Cluster};

/// Pause between looks while something is under way.
const PAUSE_BUSY: Duration = Duration::from_millis(150);
/// Pause between looks while nothing is.
const PAUSE_IDLE: Duration = Duration::from_millis(500);
/// Longest wait for one server's answer.
const ASK_TIME_MAX: Duration = Duration::from_millis(1000);
/// At the end, clients are told and get this long before servers stop.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);
/// Servers that do not stop for this long are killed.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// Time in which a server that was signalled has loaded its file, or never will.
const RELOAD_TIME_MAX: Duration = Duration::from_secs(10);

/// File in the state directory that holds the path of the YAML.
const SOURCE: &str = "source";

/// What the command line asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The YAML file.
    pub file: PathBuf,
    /// The broker's program; `None` to look for `starling-server` beside this program and in PATH.
    pub server: Option<PathBuf>,
    /// Where servers keep their files; `None` for `.starling/NAME` beside the file.
    pub state: Option<PathBuf>,
}

/// Runs the cluster of a file until a signal ends it.
///
/// # Errors
/// When the file is broken at the start, or the system refuses a process, a file or a signal handler.
/// A file that breaks later is only complained about.
pub async fn up(options: Options) -> Result<(), LocalError> {
    let text = read(&options.file)?;
    let source = load(&text, &options.file.display().to_string())?;
    let server = find_server(options.server.as_deref())?;
    let directory = state_directory(&options, &source.cluster.name);
    fs::create_dir_all(&directory).map_err(state_error("cannot create", &directory))?;
    let _lock = lock(&directory)?;
    leftovers::end(&directory).await;
    note_source(&directory, &options.file)?;
    let mut runner = Runner::new(options, text, source, server, directory)?;
    runner.announce();
    runner.run().await
}

struct Runner {
    options: Options,
    text: String,
    source: Source,
    /// What was decided about accounts and users.
    tenancy: Outcome,
    directory: PathBuf,
    complaint: Option<String>,
    /// Fields of the file that mean nothing here.
    ignored: Vec<&'static str>,
    workload: Workload,
    /// The newest configuration, and which part of its history needed a restart.
    generation: Generation,
    spec_generation: i64,
    route_password: String,
    prober: Prober,
    screen: Screen,
    status: Option<NatsClusterStatus>,
}

impl Runner {
    fn new(
        options: Options,
        text: String,
        source: Source,
        server: PathBuf,
        directory: PathBuf,
    ) -> Result<Self, LocalError> {
        let route_password = config::new_password(&mut rand::rng());
        let ignored = source.ignored.clone();
        let mut source = source;
        let tenancy = source.tenants.settle(
            &directory,
            source.cluster.auth,
            None,
            None,
            Timestamp::now().as_second(),
        )?;
        source.cluster.accounts.clone_from(&tenancy.accounts);
        let (template, generation) = prepare(&source, 1, &route_password, None, &options.file)?;
        Ok(Self {
            workload: Workload::new(server, directory.clone(), route_password.clone(), template),
            options,
            text,
            source,
            tenancy,
            directory,
            complaint: None,
            ignored,
            generation,
            spec_generation: 1,
            route_password,
            prober: Prober::new(ASK_TIME_MAX),
            screen: Screen::new(),
            status: None,
        })
    }

    fn announce(&mut self) {
        let name = &self.workload.template().cluster.name;
        let line = format!("{name}: follows {}; Ctrl-C stops all servers", self.options.file.display());
        self.screen.line(&line);
        for user in self.tenancy.credentials.keys() {
            let folder = self.directory.join("credentials").join(user);
            self.screen.line(&format!("{user}: credentials in {}", folder.display()));
        }
        if !self.ignored.is_empty() {
            let fields: Vec<String> = self.ignored.iter().map(|name| format!("spec.{name}")).collect();
            self.screen.line(&format!("without a meaning for local processes: {}", fields.join(", ")));
        }
    }

    async fn run(&mut self) -> Result<(), LocalError> {
        let handler = |kind| signal(kind).map_err(|error| LocalError::System("cannot handle signals", error));
        let (mut interrupt, mut terminate, mut hangup) = (
            handler(SignalKind::interrupt())?,
            handler(SignalKind::terminate())?,
            handler(SignalKind::hangup())?,
        );
        let end = loop {
            let pause = match self.round().await {
                Ok(pause) => pause,
                Err(error) => break Err(error),
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = interrupt.recv() => break Ok(()),
                _ = terminate.recv() => break Ok(()),
                _ = hangup.recv() => break Ok(()),
            }
        };
        self.screen.line("stopping all servers (once more to stop at once)");
        self.workload.signal_all(Signal::USR2);
        tokio::select! {
            () = self.wait_for_end(DRAIN_TIME_MAX) => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        self.workload.signal_all(Signal::TERM);
        self.wait_for_end(STOP_TIME_MAX).await;
        self.workload.signal_all(Signal::KILL);
        self.wait_for_end(STOP_TIME_MAX).await;
        self.screen.line("all servers stopped");
        end
    }

    async fn wait_for_end(&mut self, time_max: Duration) {
        let deadline = Instant::now() + time_max;
        while self.workload.any_running() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Looks at everything once and takes at most one step.
    async fn round(&mut self) -> Result<Duration, LocalError> {
        self.follow_file();
        self.tend_tenants()?;
        let now = Instant::now();
        for line in self.workload.tend(now)? {
            self.screen.line(&line);
        }
        self.ask_all().await;
        let now = Instant::now();
        let observed = self.workload.observed(now);
        let template = self.workload.template().clone();
        let certificate = self.certify(&template.cluster, &observed)?;
        let reload = config::Reload::Possible;
        let target = Target::new(&template.cluster, template.hash, template.config, reload, RELOAD_TIME_MAX);
        let plan = rollout::plan(&target, &observed);
        self.carry_out(&plan.step, now)?;
        let certificate = certificate.as_ref();
        let view = View {
            cluster: &template.cluster,
            target: &target,
            observed: &observed,
            plan: &plan,
            certificate,
        };
        self.tell(view);
        if let Some(status) = &self.status {
            write_urls(&self.directory, &self.tenancy, status)?;
        }
        Ok(if plan.step == Step::Done { PAUSE_IDLE } else { PAUSE_BUSY })
    }

    /// The servers' certificate: made, or taken from the file.
    fn certify(&mut self, cluster: &Cluster, observed: &Observed) -> Result<Option<Certificate>, LocalError> {
        let Some(tls) = &cluster.tls else { return Ok(None) };
        let directory = self.workload.directory().to_owned();
        let secret_name = directory.join("tls").display().to_string();
        let now = Timestamp::now();
        let state = local_certificates::read(&directory);
        let asked = Asked::of(cluster, certificates::names_here(cluster), &self.source.annotations);
        let (server, rotation, changed) = match (&tls.source, asked) {
            (_, Some(asked)) => {
                let renewed = issue::renew(&asked, &state, observed, now)
                    .map_err(|error| LocalError::File(error.to_string()))?;
                let changed = renewed.state != state;
                if changed {
                    local_certificates::write(&directory, &renewed.state)?;
                }
                if let Some(note) = status::certificate_note(&secret_name, renewed.step, renewed.issued) {
                    self.screen.line(&format!("{}: {}: {}", cluster.name, note.reason, note.message));
                }
                let rotation = certificates::rotation(&renewed.state);
                (renewed.state.server.data, rotation, changed)
            }
            (CertificateSource::Secret(name), None) => {
                let key_of = |(secret, key): &(String, String)| (secret == name).then(|| key.clone());
                let given = self
                    .source
                    .secrets
                    .iter()
                    .filter_map(|(place, text)| Some((key_of(place)?, text.clone())));
                let given = given.collect();
                let changed = local_certificates::write_given(&directory, &given)?;
                (given, None, changed)
            }
            (_, None) => return Ok(None),
        };
        if changed {
            // As soon as it is there; by themselves they look only now and then.
            self.workload.signal_all(Signal::HUP);
        }
        let not_after = server.get(certificates::key::TLS_CRT).and_then(|pem| certificates::not_after(pem));
        Ok(Some(Certificate::of(cluster, secret_name, not_after, rotation)))
    }

    async fn ask_all(&mut self) {
        let asked = self.workload.monitors().into_iter().map(|(ordinal, authority)| {
            let prober = &self.prober;
            async move { (ordinal, prober.ask(&authority).await) }
        });
        for (ordinal, report) in futures::future::join_all(asked).await {
            self.workload.reported(ordinal, report, Instant::now());
        }
    }

    fn carry_out(&mut self, step: &Step, now: Instant) -> Result<(), LocalError> {
        match step {
            Step::Done | Step::Wait(_) => {}
            Step::Grow { to, .. } => self.workload.set_wanted(*to, false, now),
            Step::Shrink { to, .. } => self.workload.set_wanted(*to, false, now),
            Step::Stop => self.workload.set_wanted(0, true, now),
            Step::Reload { ordinal } => self.workload.reload(*ordinal, now)?,
            Step::Replace { ordinal, .. } => self.workload.replace(*ordinal, now),
        }
        if matches!(step, Step::Grow { .. }) { self.workload.tend(now).map(drop) } else { Ok(()) }
    }

    fn tell(&mut self, view: View<'_>) {
        let rows = self.workload.rows();
        let endpoints =
            rows.iter().map(|row| Endpoint { name: row.name.clone(), url: row.url.clone() }).collect();
        let time = Time(Timestamp::now());
        let current = status::status(view, endpoints, None, self.status.as_ref(), &time);
        let name = &view.cluster.name;
        let notes = status::notes(view.cluster, &view.plan.step, self.status.as_ref(), &current);
        let news = notes.iter().map(|note| {
            let mark = if note.warning { "warning: " } else { "" };
            format!("{name}: {mark}{}: {}", note.reason, note.message)
        });
        let ready = status::find(&current, condition::READY);
        let headline = format!(
            "{name}: {}/{} ready, {}: {}",
            current.ready_replicas,
            view.target.servers,
            ready.map_or("", |condition| &condition.reason),
            ready.map_or("", |condition| &condition.message),
        );
        self.screen.show(&news.collect::<Vec<_>>(), &headline, &rows);
        self.status = Some(current);
    }

    /// Takes up a changed file. A broken one is complained about once, and changes nothing.
    fn follow_file(&mut self) {
        let Ok(text) = read(&self.options.file) else {
            // Editors replace files; one that stays away is complained about.
            if !self.options.file.exists() {
                self.complain(format!("{} is gone; the servers go on", self.options.file.display()));
            }
            return;
        };
        if text == self.text {
            return;
        }
        self.text.clone_from(&text);
        self.complaint = None;
        let before = self.workload.template().cluster.name.clone();
        let changed = load(&text, &self.options.file.display().to_string()).and_then(|source| {
            if source.cluster.name != before {
                let message = format!("metadata.name cannot change from {before} while its servers run");
                return Err(LocalError::File(message));
            }
            let mut source = source;
            self.settle(&mut source)?;
            let generation = self.spec_generation + 1;
            prepare(&source, generation, &self.route_password, Some(&self.generation), &self.options.file)
                .map(|prepared| (source, prepared))
        });
        match changed {
            Ok((source, (template, generation))) => {
                self.spec_generation += 1;
                self.source = source;
                self.generation = generation;
                self.workload.set_template(template);
            }
            Err(error) => self.complain(error.to_string()),
        }
    }

    /// Carries rotations of credentials on.
    fn tend_tenants(&mut self) -> Result<(), LocalError> {
        if self.source.tenants == super::tenants::Tenants::default() {
            return Ok(());
        }
        let mut source = self.source.clone();
        self.settle(&mut source)?;
        if source.cluster.accounts == self.source.cluster.accounts {
            return Ok(());
        }
        let before = Some(&self.generation);
        let (template, generation) =
            prepare(&source, self.spec_generation, &self.route_password, before, &self.options.file)?;
        self.source = source;
        self.generation = generation;
        self.workload.set_template(template);
        Ok(())
    }

    /// Decides about accounts and users, and says what was refused, once.
    fn settle(&mut self, source: &mut Source) -> Result<(), LocalError> {
        let (auth, now) = (source.cluster.auth, Timestamp::now().as_second());
        let before = Some(&self.generation);
        let outcome = source.tenants.settle(&self.directory, auth, before, self.status.as_ref(), now)?;
        let refused = |outcome: &Outcome| {
            let all = outcome.refused_accounts.iter().chain(&outcome.refused_users);
            all.map(|(name, refusal)| format!("{name}: warning: {}: {}", refusal.reason, refusal.message))
                .collect::<Vec<_>>()
        };
        if refused(&outcome) != refused(&self.tenancy) {
            for line in refused(&outcome) {
                self.screen.line(&line);
            }
        }
        source.cluster.accounts.clone_from(&outcome.accounts);
        self.tenancy = outcome;
        Ok(())
    }

    fn complain(&mut self, complaint: String) {
        if self.complaint.as_ref() != Some(&complaint) {
            self.screen.line(&format!("{complaint}\nnothing that runs was changed"));
            self.complaint = Some(complaint);
        }
    }
}

/// From a file's content to what servers are started from.
fn prepare(
    source: &Source,
    spec_generation: i64,
    route_password: &str,
    previous: Option<&Generation>,
    file: &Path,
) -> Result<(Template, Generation), LocalError> {
    let Source { mut cluster, secrets, .. } = source.clone();
    cluster.generation = spec_generation;
    check_certificate(&cluster, &secrets, file)?;
    let fragment = |(secret, key): &(String, String)| match secrets.get(&(secret.clone(), key.clone())) {
        Some(text) => Ok(Fragment { secret: secret.clone(), key: key.clone(), text: text.clone() }),
        None => Err(LocalError::File(format!(
            "{}: spec.config.mergeFrom: no Secret {secret} with stringData.{key} in the same file",
            file.display()
        ))),
    };
    let fragments = cluster.config.merge_from.iter().map(fragment).collect::<Result<Vec<_>, _>>()?;
    let rendered = config::render(&cluster, &Placement::in_pod(&cluster), route_password, &fragments)
        .map_err(|error| LocalError::File(format!("{}: {error}", file.display())))?;
    let generation = Generation::after(previous, rendered, config::Reload::Possible);
    let (hash, digest) = (generation.restart_digest.clone(), generation.rendered.digest.clone());
    Ok((Template { cluster, fragments, hash, config: digest }, generation))
}

/// Whether the certificate that the file is to bring is in it.
fn check_certificate(
    cluster: &Cluster,
    secrets: &BTreeMap<(String, String), String>,
    file: &Path,
) -> Result<(), LocalError> {
    let complain = |message: String| Err(LocalError::File(format!("{}: {message}", file.display())));
    match cluster.tls.as_ref().map(|tls| &tls.source) {
        Some(CertificateSource::CertManager(_)) => {
            complain("spec.tls.mode: CertManager needs Kubernetes; SelfSigned works here as well".to_owned())
        }
        Some(CertificateSource::Secret(name)) => {
            let of = |((secret, key), text): (&(String, String), &String)| {
                (secret == name).then(|| (key.clone(), text.clone()))
            };
            let given = Stored { data: secrets.iter().filter_map(of).collect(), ..Stored::default() };
            certificates::check(&given, &format!("Secret {name} of this file"), None).or_else(complain)
        }
        Some(CertificateSource::SelfSigned(_)) | None => Ok(()),
    }
}

fn read(path: &Path) -> Result<String, LocalError> {
    fs::read_to_string(path).map_err(state_error("cannot read", path))
}

fn state_error(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> LocalError {
    let path = path.display().to_string();
    move |source| LocalError::State { what, path, source }
}

fn state_directory(options: &Options, name: &str) -> PathBuf {
    let beside = || options.file.parent().unwrap_or(Path::new(".")).join(".starling").join(name);
    let chosen = options.state.clone().unwrap_or_else(beside);
    std::path::absolute(&chosen).unwrap_or(chosen)
}

/// Remembers which file a state directory belongs to, for [`source_of`].
fn note_source(directory: &Path, file: &Path) -> Result<(), LocalError> {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let path = directory.join(SOURCE);
    fs::write(&path, file.as_os_str().as_encoded_bytes()).map_err(state_error("cannot write", &path))
}

/// The file that a user means: itself, or that of the cluster with this name that was brought up from the
/// current directory.
pub fn source_of(file_or_name: &Path) -> PathBuf {
    let noted = || fs::read_to_string(Path::new(".starling").join(file_or_name).join(SOURCE)).ok();
    if file_or_name.exists() { None } else { noted() }.map_or_else(|| file_or_name.to_owned(), PathBuf::from)
}

/// Holds the state directory for as long as the file lives.
fn lock(directory: &Path) -> Result<fs::File, LocalError> {
    let path = directory.join("lock");
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(state_error("cannot open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(LocalError::Busy(directory.display().to_string())),
        Err(fs::TryLockError::Error(source)) => Err(state_error("cannot lock", &path)(source)),
    }
}

fn find_server(named: Option<&Path>) -> Result<PathBuf, LocalError> {
    const PROGRAM: &str = "starling-server";
    if let Some(path) = named {
        // A bare word is looked for in PATH, as a shell would.
        let bare = path.components().count() == 1 && !path.exists();
        let found =
            if bare { in_path(path) } else { std::path::absolute(path).ok().filter(|path| path.is_file()) };
        return found.ok_or_else(|| {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            state_error("cannot find the server", path)(source)
        });
    }
    let beside =
        std::env::current_exe().ok().map(|exe| exe.with_file_name(PROGRAM)).filter(|path| path.is_file());
    beside.or_else(|| in_path(Path::new(PROGRAM))).ok_or(LocalError::NoServer)
}

fn in_path(program: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}
