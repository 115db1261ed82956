//! What runs inside the engine, as the only program of a helper build: fills a mount, or packs it.
//!
//! It has an empty root file system, the mount, and the directory with what the client sent. It reads
//! nothing else, and never fails the build: what went wrong is in its report.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::listing::{self, Listing};
use super::pack::{self, Packed};
use super::policy::Bounds;
use super::unpack::{self, Unpacked};
use crate::layout::codec::Codec;

/// Where the mount is, what the client sent, and where it finds the results.
pub(crate) const MOUNT: &str = "/mount";
pub(crate) const SENT: &str = "/sent";
pub(crate) const RESULT: &str = "/result";

pub(crate) const REPORT: &str = "report.json";
pub(crate) const LISTING: &str = "listing.zst";
pub(crate) const AGES: &str = "ages.zst";
pub(crate) const LAYER: &str = "layer.tar.zst";

/// Longer than a tick of any kernel's clock: what changes later has a later time.
const TICK: Duration = Duration::from_millis(20);

/// What became of a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    /// It has been filled with this many files and bytes; so many entries were refused.
    Filled { files: u64, bytes: u64, refused: u64 },
    /// It was not empty and stays as it is.
    Warm,
    /// It has been packed.
    Packed(Packed),
    /// Nothing has been done, for this reason.
    Failed(String),
}

/// Runs the task that the words name, and leaves a report.
pub fn run(words: &[String]) -> io::Result<()> {
    let places = Places { mount: MOUNT.into(), sent: SENT.into(), result: RESULT.into() };
    fs::create_dir_all(&places.result)?;
    let report = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fill", ..] => fill(&places),
        ["pack", builds, bytes, layers, stored, ..] => bounds([builds, bytes, layers, stored])
            .ok_or_else(|| io::Error::other("its bounds are not numbers"))
            .and_then(|bounds| pack(&places, &bounds)),
        _ => Err(io::Error::other("unknown task")),
    };
    let report = report.unwrap_or_else(|error| Report::Failed(error.to_string()));
    fs::write(places.result.join(REPORT), serde_json::to_vec(&report)?)
}

/// The words for [`run`] that pack within these bounds.
pub(crate) fn pack_words(bounds: &Bounds) -> Vec<String> {
    let Bounds { builds, bytes, layers, stored } = bounds;
    let numbers = [u64::from(*builds), *bytes, *layers as u64, *stored];
    std::iter::once("pack".to_owned()).chain(numbers.map(|n| n.to_string())).collect()
}

fn bounds([builds, bytes, layers, stored]: [&str; 4]) -> Option<Bounds> {
    Some(Bounds {
        builds: builds.parse().ok()?,
        bytes: bytes.parse().ok()?,
        layers: layers.parse().ok()?,
        stored: stored.parse().ok()?,
    })
}

/// The directories of a task.
struct Places {
    mount: PathBuf,
    sent: PathBuf,
    result: PathBuf,
}

fn fill(places: &Places) -> io::Result<Report> {
    let root = &places.mount;
    if fs::read_dir(root)?.next().is_some() {
        return Ok(Report::Warm);
    }
    let mut done = Unpacked::default();
    let filled = fill_from(places, &mut done);
    if let Err(error) = filled {
        // Half of a mount may be worse than none.
        let _ = unpack::empty(root);
        return Err(error);
    }
    Ok(Report::Filled { files: done.files, bytes: done.bytes, refused: done.refused })
}

fn fill_from(places: &Places, done: &mut Unpacked) -> io::Result<()> {
    let root = &places.mount;
    for number in 0.. {
        let path = places.sent.join(number.to_string());
        let Ok(file) = File::open(&path) else { break };
        unpack::layer(root, file, done)?;
    }
    let listing = Listing::of(&listing::walk(root)?);
    std::thread::sleep(TICK);
    write_zstd(&places.result.join(LISTING), |out| listing.write(out))
}

fn pack(places: &Places, bounds: &Bounds) -> io::Result<Report> {
    let root = &places.mount;
    let knows_use = unpack::records_access(root);
    let found = listing::walk(root)?;
    let sent = |name: &str| File::open(places.sent.join(name)).ok();
    let listing = sent(LISTING).map(|file| zstd::Decoder::new(file).and_then(Listing::read));
    let listing = listing.transpose()?;
    let ages = sent(AGES).map(|file| zstd::Decoder::new(file).and_then(listing::read_ages));
    let ages = ages.transpose()?.unwrap_or_default();
    let plan = pack::plan(&found, listing.as_ref(), &ages, knows_use, bounds);
    let mut packed = plan.packed.clone();
    if packed.changed {
        let file = File::create(places.result.join(LAYER))?;
        let encoder = Codec::Zstd.encoder(file)?;
        let mut counted = Counted { out: encoder, hash: Sha256::new(), size: 0 };
        let mut buffered = BufWriter::with_capacity(1 << 20, &mut counted);
        plan.write(root, &mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        let Counted { out, hash, size } = counted;
        out.finish()?;
        let hex = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        packed.diff_id = format!("sha256:{hex}");
        packed.unpacked = size;
    }
    write_zstd(&places.result.join(AGES), |out| listing::write_ages(&plan.ages, out))?;
    Ok(Report::Packed(packed))
}

fn write_zstd(
    path: &Path,
    write: impl FnOnce(&mut zstd::Encoder<'static, BufWriter<File>>) -> io::Result<()>,
) -> io::Result<()> {
    let mut encoder = zstd::Encoder::new(BufWriter::new(File::create(path)?), 3)?;
    write(&mut encoder)?;
    encoder.finish()?.into_inner().map(drop).map_err(io::IntoInnerError::into_error)
}

/// Reads a report of the program.
pub(crate) fn report(result: &Path) -> io::Result<Report> {
    Ok(serde_json::from_reader(BufReader::new(File::open(result.join(REPORT))?))?)
}

/// Hashes and counts what passes.
struct Counted<W> {
    out: W,
    hash: Sha256,
    size: u64,
}

impl<W: io::Write> io::Write for Counted<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.out.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
