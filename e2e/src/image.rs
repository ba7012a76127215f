//! Container images from files, without a container engine.
//!
//! Owns the bytes of an image archive: one layer, its configuration, and the
//! indexes by which both kinds of readers find them (an OCI image layout, and the
//! `manifest.json` of `docker save`). The same input gives the same bytes: no times,
//! no owners but root. Never reads a file and never runs a program.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use flate2::{Compression, GzBuilder};
use serde_json::json;
use sha2::{Digest, Sha256};

/// What can be wrong with an image's input.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file is no 64-bit little-endian ELF program of an architecture we ship.
    #[error("{path}: not a 64-bit Linux program for amd64 or arm64; build it for Linux first")]
    NotAProgram {
        /// Path in the image.
        path: String,
    },
    /// The program names a dynamic loader, which an image from scratch has not.
    #[error(
        "{path}: linked dynamically, but the image holds no loader; build it with \
         RUSTFLAGS='-C target-feature=+crt-static'"
    )]
    Dynamic {
        /// Path in the image.
        path: String,
    },
    /// Writing the archive failed (only for paths that no tar can hold).
    #[error("cannot write the archive: {0}")]
    Archive(#[from] std::io::Error),
}

/// What stands at one path of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A directory with its mode.
    Directory(u32),
    /// A file's bytes and mode.
    File(Vec<u8>, u32),
    /// A symbolic link's target.
    Link(String),
}

/// An image to be packed: one layer `FROM scratch`.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Names with tag under which a container runtime finds it, for example
    /// `localhost/starling-server:test`; fully qualified, because Kubernetes looks
    /// for them literally.
    pub references: Vec<String>,
    /// `amd64` or `arm64`.
    pub architecture: String,
    /// Program and its first arguments; empty for none.
    pub entrypoint: Vec<String>,
    /// `UID:GID`; empty for root.
    pub user: String,
    /// Environment as `NAME=value`.
    pub environment: Vec<String>,
    /// TCP ports named in the configuration; they open nothing by themselves.
    pub ports: Vec<u16>,
    /// Labels by name.
    pub labels: BTreeMap<String, String>,
    /// What the image holds, by path without leading slash. Parents are added.
    pub entries: BTreeMap<String, Entry>,
}

/// A packed image.
#[derive(Debug, Clone)]
pub struct Archive {
    /// The tar archive: what `docker load`, `ctr images import` and `kind load
    /// image-archive` read.
    pub bytes: Vec<u8>,
    /// Size of the image unpacked, in bytes: what `docker images` shows.
    pub unpacked_bytes: usize,
    /// Size of the compressed layer, in bytes: what a node downloads.
    pub layer_bytes: usize,
    /// Digest of the image's manifest, `sha256:…`.
    pub digest: String,
}

impl Image {
    /// Packs the image.
    ///
    /// # Errors
    /// When a path cannot stand in a tar archive.
    pub fn pack(&self) -> Result<Archive, ImageError> {
        let layer = self.layer()?;
        let packed = gzip(&layer)?;
        let config = self.config(&layer).to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &packed)],
        })
        .to_string()
        .into_bytes();
        let index = self.index(&manifest).to_string().into_bytes();
        let docker_manifest = json!([{
            "Config": blob_path(&config),
            "RepoTags": self.references,
            "Layers": [blob_path(&packed)],
        }])
        .to_string()
        .into_bytes();

        let mut archive = tar::Builder::new(Vec::new());
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
        append_file(&mut archive, "oci-layout", layout, 0o644)?;
        append_file(&mut archive, "index.json", &index, 0o644)?;
        append_file(&mut archive, "manifest.json", &docker_manifest, 0o644)?;
        for blob in [&config, &packed, &manifest] {
            append_file(&mut archive, &blob_path(blob), blob, 0o644)?;
        }
        Ok(Archive {
            bytes: archive.into_inner()?,
            unpacked_bytes: layer.len(),
            layer_bytes: packed.len(),
            digest: format!("sha256:{}", hex_digest(&manifest)),
        })
    }

    /// The layer as an uncompressed tar archive.
    fn layer(&self) -> Result<Vec<u8>, ImageError> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut directories = BTreeSet::new();
        for (path, entry) in &self.entries {
            let mut end = 0;
            while let Some(next) = path[end..].find('/') {
                let parent = &path[..end + next];
                if !self.entries.contains_key(parent) && directories.insert(parent.to_owned()) {
                    append_directory(&mut builder, parent, 0o755)?;
                }
                end += next + 1;
            }
            match entry {
                Entry::Directory(mode) => append_directory(&mut builder, path, *mode)?,
                Entry::File(bytes, mode) => append_file(&mut builder, path, bytes, *mode)?,
                Entry::Link(target) => append_link(&mut builder, path, target)?,
            }
        }
        Ok(builder.into_inner()?)
    }

    fn config(&self, layer: &[u8]) -> serde_json::Value {
        let mut config = json!({ "WorkingDir": "/", "Env": self.environment });
        if !self.entrypoint.is_empty() {
            config["Entrypoint"] = json!(self.entrypoint);
        }
        if !self.user.is_empty() {
            config["User"] = json!(self.user);
        }
        if !self.ports.is_empty() {
            let ports = self.ports.iter().map(|port| (format!("{port}/tcp"), json!({})));
            config["ExposedPorts"] = ports.collect::<serde_json::Map<_, _>>().into();
        }
        if !self.labels.is_empty() {
            config["Labels"] = json!(self.labels);
        }
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex_digest(layer))] },
        })
    }

    /// The OCI index: one descriptor for each name, since a name is an annotation.
    fn index(&self, manifest: &[u8]) -> serde_json::Value {
        let manifests = self.references.iter().map(|reference| {
            let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", manifest);
            entry["annotations"] = json!({
                "io.containerd.image.name": reference,
                "org.opencontainers.image.ref.name": reference,
            });
            entry["platform"] = json!({ "architecture": self.architecture, "os": "linux" });
            entry
        });
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests.collect::<Vec<_>>(),
        })
    }
}

/// The architecture, in image terms, of a static program; refuses a dynamic one.
///
/// `path` is used in the error only.
///
/// # Errors
/// When the bytes are no ELF program that could run in an image from scratch.
pub fn static_program_architecture(path: &str, bytes: &[u8]) -> Result<&'static str, ImageError> {
    let not_a_program = || ImageError::NotAProgram { path: path.to_owned() };
    if bytes.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err(not_a_program());
    }
    let architecture = match read_u16(bytes, 0x12) {
        Some(0x3e) => "amd64",
        Some(0xb7) => "arm64",
        _ => return Err(not_a_program()),
    };
    // The program headers; PT_INTERP (3) names the loader of a dynamic program.
    let offset = read_u64(bytes, 0x20).ok_or_else(not_a_program)?;
    let size = read_u16(bytes, 0x36).ok_or_else(not_a_program)?;
    let count = read_u16(bytes, 0x38).ok_or_else(not_a_program)?;
    for index in 0..u64::from(count) {
        let at = usize::try_from(offset + index * u64::from(size)).map_err(|_| not_a_program())?;
        let kind = bytes.get(at..at + 4).ok_or_else(not_a_program)?;
        if kind == 3u32.to_le_bytes() {
            return Err(ImageError::Dynamic { path: path.to_owned() });
        }
    }
    Ok(architecture)
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>, std::io::Error> {
    let mut writer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    writer.write_all(bytes)?;
    writer.finish()
}

fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn blob_path(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", hex_digest(bytes))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    let digest = format!("sha256:{}", hex_digest(bytes));
    json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

type Builder = tar::Builder<Vec<u8>>;

fn append_file(to: &mut Builder, path: &str, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    to.append_data(&mut header(tar::EntryType::Regular, mode, bytes.len()), path, bytes)
}

fn append_directory(to: &mut Builder, path: &str, mode: u32) -> std::io::Result<()> {
    let mut header = header(tar::EntryType::Directory, mode, 0);
    to.append_data(&mut header, format!("{path}/"), std::io::empty())
}

fn append_link(to: &mut Builder, path: &str, target: &str) -> std::io::Result<()> {
    to.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), path, target)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn image() -> Image {
        Image {
            references: vec!["localhost/x:test".into()],
            architecture: "amd64".into(),
            entrypoint: vec!["/x".into()],
            user: "65532:65532".into(),
            ports: vec![4222],
            entries: BTreeMap::from([
                ("x".into(), Entry::File(b"program".to_vec(), 0o755)),
                ("etc/deep/file".into(), Entry::File(b"text".to_vec(), 0o644)),
                ("tmp".into(), Entry::Directory(0o1777)),
            ]),
            ..Image::default()
        }
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut reader = tar::Archive::new(archive);
        let entries = reader.entries().unwrap();
        entries
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                (entry.path().unwrap().to_string_lossy().into_owned(), bytes)
            })
            .collect()
    }

    #[test]
    fn both_kinds_of_reader_find_the_layer_and_its_digests_hold() {
        let archive = files(&image().pack().unwrap().bytes);
        let docker: serde_json::Value = serde_json::from_slice(&archive["manifest.json"]).unwrap();
        assert_eq!(docker[0]["RepoTags"], json!(["localhost/x:test"]));
        let layer = &archive[docker[0]["Layers"][0].as_str().unwrap()];

        let index: serde_json::Value = serde_json::from_slice(&archive["index.json"]).unwrap();
        let name = &index["manifests"][0]["annotations"]["io.containerd.image.name"];
        assert_eq!(name, "localhost/x:test");
        let blob = |descriptor: &serde_json::Value| {
            let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            let bytes = archive[&format!("blobs/sha256/{digest}")].clone();
            assert_eq!(hex_digest(&bytes), digest);
            assert_eq!(descriptor["size"], bytes.len());
            bytes
        };
        let manifest: serde_json::Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
        assert_eq!(&blob(&manifest["layers"][0]), layer);
        let config: serde_json::Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        assert_eq!(config["config"]["User"], "65532:65532");

        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&layer[..]).read_to_end(&mut unpacked).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", hex_digest(&unpacked)));
        let names: Vec<_> = files(&unpacked).into_keys().collect();
        assert_eq!(names, ["etc/", "etc/deep/", "etc/deep/file", "tmp/", "x"]);
    }

    #[test]
    fn the_same_input_gives_the_same_image() {
        assert_eq!(image().pack().unwrap().digest, image().pack().unwrap().digest);
        let mut other = image();
        other.entries.insert("y".into(), Entry::Link("x".into()));
        assert_ne!(image().pack().unwrap().digest, other.pack().unwrap().digest);
    }

    fn elf(machine: u16, program_header: u32) -> Vec<u8> {
        let mut bytes = vec![0u8; 0x78];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[0x12..0x14].copy_from_slice(&machine.to_le_bytes());
        bytes[0x20..0x28].copy_from_slice(&0x40u64.to_le_bytes());
        bytes[0x36..0x38].copy_from_slice(&0x38u16.to_le_bytes());
        bytes[0x38..0x3a].copy_from_slice(&1u16.to_le_bytes());
        bytes[0x40..0x44].copy_from_slice(&program_header.to_le_bytes());
        bytes
    }

    #[test]
    fn a_dynamic_program_is_refused_before_it_fails_in_a_pod() {
        assert_eq!(static_program_architecture("x", &elf(0x3e, 1)).unwrap(), "amd64");
        assert_eq!(static_program_architecture("x", &elf(0xb7, 1)).unwrap(), "arm64");
        let dynamic = static_program_architecture("x", &elf(0x3e, 3)).unwrap_err();
        assert!(dynamic.to_string().contains("crt-static"), "{dynamic}");
        for bad in [&b"#!/bin/sh"[..], &elf(0x28, 1)[..], &elf(0x3e, 1)[..0x41]] {
            let error = static_program_architecture("x", bad).unwrap_err();
            assert!(matches!(error, ImageError::NotAProgram { .. }), "{error}");
        }
    }
}
