//! Files and project folders made to do harm, each tried with the commands that read it. `cargo bench --no-default-features --bench
//! hostile` tries all of them and watches every system call; the tests try those that take milliseconds and compare what lies beside the
//! project.

pub mod attempt;
pub mod case;
pub mod ground;
pub mod snapshot;

mod archives;
mod damage;

mod bombs;
mod caches;
mod headers;
mod jpegs;
mod links;
mod locks;
mod names;
mod pickles;
mod pngs;
mod repositories;
mod yamls;
mod zips;

use case::Case;

/// Every case, family by family.
pub fn all() -> Vec<Case> {
    let families = [
        pickles::cases,
        bombs::cases,
        zips::cases,
        headers::cases,
        jpegs::cases,
        pngs::cases,
        yamls::cases,
        locks::cases,
        caches::cases,
        links::cases,
        repositories::cases,
        names::cases,
    ];
    families.into_iter().flat_map(|cases| cases()).collect()
}
