//! `images` and `pack`: image archives from programs on disk.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use e2e::image::{Archive, Entry, Image, static_program_architecture};

use crate::process::{output, project_root, run};

/// The broker image's size at most, unpacked, in bytes: the figure of the first NATS.
const BROKER_IMAGE_BYTES_MAX: usize = 7_000_000;

/// User and group of both images: `nonroot` by convention of images without a shell.
const USER: &str = "65532:65532";

/// Arguments of `images`.
#[derive(Debug, clap::Args)]
pub struct ImagesArguments {
    /// Folder to write the archives to; default: images under the build's target folder
    #[arg(long)]
    out: Option<PathBuf>,
    /// Pack this broker instead of building one
    #[arg(long)]
    broker: Option<PathBuf>,
    /// Pack this operator instead of building one
    #[arg(long)]
    operator: Option<PathBuf>,
    /// Tag of both images
    #[arg(long, default_value = "test")]
    tag: String,
}

/// The archives that `images` wrote.
#[derive(Debug, Clone)]
pub struct Images {
    /// Archive of the broker.
    pub broker: PathBuf,
    /// Archive of the operator.
    pub operator: PathBuf,
}

impl ImagesArguments {
    /// Arguments that build both programs.
    pub fn built() -> Self {
        Self { out: None, broker: None, operator: None, tag: "test".into() }
    }

    /// Builds what is not given and writes both archives.
    pub fn write(&self) -> Result<Images> {
        let out = self.out.clone().unwrap_or_else(|| target_folder().join("images"));
        std::fs::create_dir_all(&out)?;
        let (broker, operator) = match (&self.broker, &self.operator) {
            (Some(broker), Some(operator)) => (broker.clone(), operator.clone()),
            (broker, operator) => {
                let built = build_static(broker.is_none(), operator.is_none())?;
                let choose =
                    |given: &Option<PathBuf>, name| given.clone().unwrap_or_else(|| built.join(name));
                (choose(broker, "starling-server"), choose(operator, "starling-operator"))
            }
        };
        let images =
            Images { broker: out.join("starling-server.tar"), operator: out.join("starling-operator.tar") };
        let archive = program_image("starling-server", &self.tag, &broker, &[4222, 6222, 8222])?;
        write(&images.broker, "starling-server", &archive)?;
        ensure!(
            archive.unpacked_bytes <= BROKER_IMAGE_BYTES_MAX,
            "the broker image has {} bytes unpacked, {BROKER_IMAGE_BYTES_MAX} at most",
            archive.unpacked_bytes
        );
        let archive = program_image("starling-operator", &self.tag, &operator, &[8080])?;
        write(&images.operator, "starling-operator", &archive)?;
        Ok(images)
    }
}

fn write(path: &Path, name: &str, archive: &Archive) -> Result<()> {
    std::fs::write(path, &archive.bytes).with_context(|| path.display().to_string())?;
    println!(
        "image {name}: {:.2} MB unpacked, {:.2} MB compressed, {}",
        archive.unpacked_bytes as f64 / 1e6,
        archive.layer_bytes as f64 / 1e6,
        archive.digest
    );
    Ok(())
}

/// An image of one static program at `/NAME`, as the Dockerfiles make it too: no shell, no
/// package, an empty `/tmp`, and `nsswitch.conf` so that `/etc/hosts` is asked before DNS.
fn program_image(name: &str, tag: &str, program: &Path, ports: &[u16]) -> Result<Archive> {
    let bytes = std::fs::read(program).with_context(|| program.display().to_string())?;
    let architecture = static_program_architecture(&program.display().to_string(), &bytes)?;
    let image = Image {
        references: vec![format!("localhost/{name}:{tag}")],
        architecture: architecture.to_owned(),
        entrypoint: vec![format!("/{name}")],
        user: USER.to_owned(),
        environment: vec!["PATH=/".to_owned()],
        ports: ports.to_vec(),
        labels: BTreeMap::from([
            ("org.opencontainers.image.title".to_owned(), name.to_owned()),
            ("org.opencontainers.image.licenses".to_owned(), "Apache-2.0".to_owned()),
            ("org.opencontainers.image.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ]),
        entries: BTreeMap::from([
            (name.to_owned(), Entry::File(bytes, 0o755)),
            ("etc/nsswitch.conf".to_owned(), Entry::File(b"hosts: files dns\n".to_vec(), 0o644)),
            ("tmp".to_owned(), Entry::Directory(0o1777)),
        ]),
    };
    Ok(image.pack()?)
}

/// The folder that cargo builds into.
pub fn target_folder() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => project_root().join("target"),
    }
}

/// Builds `kubectl nats`, which runs on this machine.
pub fn build_plugin() -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(project_root()).args([
        "build",
        "--locked",
        "-p",
        "starling-operator",
        // Named too, so that both are built with the same features of what they share, once.
        "-p",
        "starling-e2e",
        "--bin",
        "kubectl-nats",
    ]);
    run(&mut cargo)
}

/// Builds the static programs and returns the folder they are in. `--target` is named even
/// though it is this machine's own: without it the flags would reach procedural macros,
/// which cannot be linked statically.
fn build_static(broker: bool, operator: bool) -> Result<PathBuf> {
    let target = match std::env::consts::ARCH {
        "x86_64" => "x86_64-unknown-linux-gnu",
        "aarch64" => "aarch64-unknown-linux-gnu",
        other => bail!("no static build for {other}; give --broker and --operator"),
    };
    let build = |package: &str, options: &[(&str, &str)]| {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(project_root()).args(["build", "--release", "--locked", "--target", target]);
        cargo.args(["-p", package, "--bin", package]).envs(options.iter().copied());
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env("CARGO_INCREMENTAL", "0");
        // Symbols are a seventh of the image, and nobody debugs in it.
        run(cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols"))?;
        // with fat link-time optimization the symbols stay all the same
        run(Command::new("strip").arg(target_folder().join(target).join("release").join(package)))
    };
    if broker {
        // A tenth smaller than by "thin", for a minute more; the operator would take five more.
        build("starling-server", &[("CARGO_PROFILE_RELEASE_LTO", "fat")])?;
    }
    if operator {
        build("starling-operator", &[])?;
    }
    Ok(target_folder().join(target).join("release"))
}

/// Arguments of `pack`.
#[derive(Debug, clap::Args)]
pub struct PackArguments {
    /// Names with tag, separated by commas
    names: String,
    /// The archive to write
    out: PathBuf,
    /// SRC=DST copies a file; SRC@=DST makes a link at DST to SRC; SRC alone is SRC=SRC
    files: Vec<String>,
    /// Program and its first arguments, separated by commas
    #[arg(long, default_value = "")]
    entrypoint: String,
    /// UID:GID
    #[arg(long, default_value = "")]
    user: String,
    /// Also pack the shared libraries that the programs name
    #[arg(long)]
    ldd: bool,
    /// NAME=value
    #[arg(long)]
    env: Vec<String>,
}

impl PackArguments {
    /// Programs with their libraries as one image.
    pub fn new(name: &str, out: PathBuf, files: Vec<String>, entrypoint: &str) -> Self {
        Self {
            names: name.to_owned(),
            out,
            files,
            entrypoint: entrypoint.to_owned(),
            user: String::new(),
            ldd: true,
            env: Vec::new(),
        }
    }

    /// This very program with its libraries, as the client of pods.
    pub fn client(out: PathBuf) -> Result<Self> {
        let files = vec![format!("{}=/starling-e2e", std::env::current_exe()?.display())];
        let image = Self::new("localhost/starling-e2e:test", out, files, "/starling-e2e");
        Ok(Self { user: USER.to_owned(), ..image })
    }

    /// Writes the archive.
    pub fn write(&self) -> Result<()> {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        let mut image = Image {
            references: self.names.split(',').filter(|n| !n.is_empty()).map(Into::into).collect(),
            architecture: match std::env::consts::ARCH {
                "aarch64" => "arm64".to_owned(),
                _ => "amd64".to_owned(),
            },
            user: self.user.clone(),
            environment: std::iter::once(path).chain(self.env.iter().cloned()).collect(),
            ..Image::default()
        };
        if !self.entrypoint.is_empty() {
            image.entrypoint = self.entrypoint.split(',').map(Into::into).collect();
        }
        image.entries.insert("tmp".into(), Entry::Directory(0o1777));
        for file in &self.files {
            if let Some((target, at)) = file.split_once("@=") {
                image.entries.insert(inside(at), Entry::Link(target.to_owned()));
                continue;
            }
            let (source, at) = file.split_once('=').unwrap_or((file, file));
            add_file(&mut image, source, at)?;
            if self.ldd {
                for library in libraries(source)? {
                    add_file(&mut image, &library, &library)?;
                }
            }
        }
        let archive = image.pack()?;
        std::fs::write(&self.out, archive.bytes).with_context(|| self.out.display().to_string())
    }
}

fn inside(path: &str) -> String {
    path.trim_matches('/').to_owned()
}

fn add_file(image: &mut Image, source: &str, at: &str) -> Result<()> {
    let bytes = std::fs::read(source).with_context(|| source.to_owned())?;
    let mode = std::fs::metadata(source)?.permissions().mode() & 0o7777;
    image.entries.insert(inside(at), Entry::File(bytes, mode));
    Ok(())
}

/// The libraries and the loader of a dynamic program, by `ldd`; none of a static one.
fn libraries(program: &str) -> Result<Vec<String>> {
    let Ok(listing) = output(Command::new("ldd").arg(program)) else {
        return Ok(Vec::new()); // "not a dynamic executable" is a failure of ldd's
    };
    let paths = listing.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(Into::into).collect())
}
