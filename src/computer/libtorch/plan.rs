//! What must travel before a release is complete in a folder: asks the source, reads each wheel's directory and RECORD, and leaves out what
//! is there already. Writes nothing. Unaware of the console.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rayon::prelude::*;

use crate::computer::libtorch::archive::{Archive, Packed, WheelFile};
use crate::computer::libtorch::client::{Client, NetworkTrouble, shown};
use crate::computer::libtorch::folder::{self, Depth, Extent, Standing};
use crate::computer::libtorch::index::{Offer, Place, Source};
use crate::computer::libtorch::record::{self, Member};
use crate::computer::libtorch::remote_file::{Probe, RemoteFile, Travelled, probe};
use crate::computer::libtorch::sha256::Sha256;
use crate::computer::libtorch::wheel::{Release, Wheel};

/// Members that lie no farther apart than this are fetched in one go: a request costs more.
const GAP: u64 = 64 << 10;

/// Whose word counts for a wheel that is not pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nobody's.
    Pins,
    /// The hash that the index gives; for a wheel in a folder, whoever put it there.
    Index,
}

/// What is to be done.
pub struct Plan {
    pub release: Release,
    pub into: PathBuf,
    /// The folder is there, damaged: what is good of it is used.
    pub damage: Option<String>,
    pub steps: Vec<Step>,
    pub(in crate::computer::libtorch) client: Rc<Client>,
    pub(in crate::computer::libtorch) travelled: Travelled,
}

/// What is to be done about one wheel.
pub struct Step {
    pub wheel: Wheel,
    pub place: Place,
    /// Of the whole file, in bytes; `None` if the server does not say.
    pub size: Option<u64>,
    pub way: Way,
}

/// How the members of a wheel are come by.
pub enum Way {
    /// They are read out of it where it lies.
    Members(Opened),
    /// The whole wheel travels first, since the server gives no parts of it or only the whole has a known hash.
    Whole {
        probe: Probe,
        sha256: Sha256,
        /// Bytes of it that are there from an earlier attempt.
        here: u64,
    },
}

/// A wheel whose directory and RECORD are read.
pub struct Opened {
    pub(in crate::computer::libtorch) archive: Archive,
    pub(in crate::computer::libtorch) record: Vec<u8>,
    /// All of them, also those that are there already.
    pub extent: Extent,
    /// In the order in which they lie in the wheel.
    pub(in crate::computer::libtorch) missing: Vec<(Member, Packed)>,
}

impl Opened {
    /// Those that are not there yet.
    pub fn missing(&self) -> Extent {
        Extent { files: self.missing.len(), bytes: self.missing.iter().map(|(member, _)| member.size).sum() }
    }

    /// What is read of the wheel for them, in one piece each.
    pub(in crate::computer::libtorch) fn spans(&self) -> Vec<std::ops::Range<u64>> {
        let mut spans: Vec<std::ops::Range<u64>> = Vec::new();
        for (_, packed) in &self.missing {
            match spans.last_mut() {
                Some(last) if packed.span.start.saturating_sub(last.end) <= GAP => last.end = last.end.max(packed.span.end),
                _ => spans.push(packed.span.clone()),
            }
        }
        spans
    }
}

impl Step {
    /// Bytes that will travel.
    pub fn download(&self) -> Option<u64> {
        match (&self.place, &self.way) {
            (Place::File(_), _) => Some(0),
            (_, Way::Members(opened)) => Some(opened.spans().iter().map(|span| span.end - span.start).sum()),
            (_, Way::Whole { here, .. }) => self.size.map(|size| size.saturating_sub(*here)),
        }
    }
}

impl Plan {
    /// Bytes that will travel; those of which the server does not say it are left out.
    pub fn download(&self) -> u64 {
        self.steps.iter().filter_map(Step::download).sum()
    }

    /// Bytes that are written to the disk, as far as it is known before whole wheels are here.
    pub fn disk(&self) -> u64 {
        let of_step = |step: &Step| match &step.way {
            Way::Members(opened) => opened.missing().bytes,
            Way::Whole { .. } => step.download().unwrap_or_default(),
        };
        self.steps.iter().map(of_step).sum()
    }
}

/// Whether there is anything to do.
pub enum Outlook {
    /// The release is in the folder already.
    Complete(Extent),
    Needed(Box<Plan>),
}

/// Finds out what is needed for a release to be complete in a folder.
///
/// # Errors
/// A wheel is not offered, is another one than is pinned, or is not trusted; the folder holds something else; `NetworkTrouble`.
pub fn plan(release: Release, source: &Source, client: Client, into: &Path, trust: Trust, depth: Depth) -> Result<Outlook> {
    let damage = match folder::standing(into, &release, depth)? {
        Standing::Complete(extent) => return Ok(Outlook::Complete(extent)),
        Standing::Damaged(what) => Some(what),
        Standing::Absent => None,
    };
    let (client, travelled) = (Rc::new(client), Travelled::default());
    let partial = if damage.is_some() { into.to_path_buf() } else { folder::partial_of(into) };
    let mut steps = Vec::with_capacity(release.wheels.len());
    for wheel in &release.wheels {
        let offer = source.find(&client, wheel)?;
        steps.push(step(wheel, offer, &client, &travelled, &partial, trust)?);
    }
    Ok(Outlook::Needed(Box::new(Plan { release, into: into.to_path_buf(), damage, steps, client, travelled })))
}

fn step(wheel: &Wheel, offer: Offer, client: &Rc<Client>, travelled: &Travelled, partial: &Path, trust: Trust) -> Result<Step> {
    let place = &offer.place;
    ensure!(
        wheel.pin.is_some() || trust == Trust::Index,
        "no hash of `{}` is pinned in this program: `--trust-index` takes the one that the index gives",
        wheel.file
    );
    if let (Some(pin), Some(given)) = (wheel.pin, offer.sha256) {
        ensure!(
            pin.sha256 == given,
            "`{}` at `{place}` is another file than the published one: the index gives SHA-256 {given}, pinned is {}; name another \
             index with `--from`",
            wheel.file,
            pin.sha256
        );
    }
    let (size, way) = match place {
        Place::File(path) => {
            let file = File::open(path).with_context(|| format!("opening `{}`", path.display()))?;
            let size = file.metadata().with_context(|| format!("reading `{}`", path.display()))?.len();
            check_size(wheel, place, Some(size))?;
            (Some(size), Way::Members(open(WheelFile::Local(file), wheel, place, partial)?))
        }
        Place::Url(url) => {
            let probe = probe(client, url)?;
            check_size(wheel, place, probe.size)?;
            let size = probe.size.or(wheel.pin.map(|pin| pin.size));
            let begun = partial.join(folder::WHEELS).join(&wheel.file).metadata().map_or(0, |begun| begun.len());
            // Without ranges nothing can be gone on with.
            let here = if probe.ranged || Some(begun) == size { begun } else { 0 };
            match (wheel.pin, probe, offer.sha256) {
                (Some(_), Probe { ranged: true, size: Some(size) }, _) => {
                    let file = RemoteFile::new(client.clone(), url.clone(), size, travelled.clone());
                    (Some(size), Way::Members(open(WheelFile::Remote(file), wheel, place, partial)?))
                }
                (Some(pin), _, _) => (size, Way::Whole { probe: Probe { size, ..probe }, sha256: pin.sha256, here }),
                (None, _, Some(sha256)) => (size, Way::Whole { probe, sha256, here }),
                (None, _, None) => {
                    let problem = format!("the index gives no SHA-256 for `{}`, and none is pinned in this program", wheel.file);
                    return Err(NetworkTrouble { url: shown(url), problem }.into());
                }
            }
        }
    };
    Ok(Step { wheel: wheel.clone(), place: offer.place, size, way })
}

fn check_size(wheel: &Wheel, place: &Place, found: Option<u64>) -> Result<()> {
    if let (Some(pin), Some(found)) = (wheel.pin, found)
        && pin.size != found
    {
        bail!(
            "`{place}` is not the published wheel: it has {found} bytes, the published one {}; fetch it again, or name another place \
             with `--from`",
            pin.size
        );
    }
    Ok(())
}

/// Reads directory and RECORD of a wheel, and looks for its members in `partial`.
pub(in crate::computer::libtorch) fn open(file: WheelFile, wheel: &Wheel, place: &Place, partial: &Path) -> Result<Opened> {
    let of_wheel = || format!("reading the wheel `{place}`");
    let mut archive = Archive::open(file).with_context(of_wheel)?;
    let path = wheel.record_path();
    let packed = archive.member(&path).ok_or_else(|| anyhow!("it has no `{path}`")).with_context(of_wheel)?.clone();
    let mut bytes = Vec::new();
    archive.read(&packed)?.take(record::MAX_SIZE).read_to_end(&mut bytes).with_context(of_wheel)?;
    if let Some(pin) = wheel.pin {
        ensure!(
            Sha256::of(&bytes) == pin.record,
            "`{path}` in `{place}` is not what was published: its SHA-256 is {}, pinned is {}; name another place with `--from`",
            Sha256::of(&bytes),
            pin.record
        );
    }
    let wanted = wheel.wanted(record::parse(&String::from_utf8_lossy(&bytes)).with_context(of_wheel)?)?;
    let extent = Extent { files: wanted.len(), bytes: wanted.iter().map(|member| member.size).sum() };
    let absent: Vec<Member> = wanted.into_par_iter().filter(|member| !folder::is_there(partial, member, Depth::Bytes)).collect();
    let mut missing = Vec::with_capacity(absent.len());
    for member in absent {
        let packed = archive.member(&member.path).ok_or_else(|| anyhow!("it has no `{}`", member.path)).with_context(of_wheel)?;
        ensure!(
            packed.size == member.size,
            "`{}` in `{place}` is not what was published: it has {} bytes, by RECORD {}; name another place with `--from`",
            member.path,
            packed.size,
            member.size
        );
        let packed = packed.clone();
        missing.push((member, packed));
    }
    missing.sort_by_key(|(_, packed)| packed.span.start);
    Ok(Opened { archive, record: bytes, extent, missing })
}
