//! Where wheels lie: a package index or a folder. Unaware of what is in a wheel.
//!
//! An index is asked by the *simple* interface: JSON (PEP 691) if it can, else the HTML of PEP 503, which mirrors and PyTorch's own have.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use regex::Regex;
use serde::Deserialize;

use crate::computer::libtorch::client::{Client, NetworkTrouble, Page, shown};
use crate::computer::libtorch::sha256::Sha256;
use crate::computer::libtorch::wheel::Wheel;

const JSON: &str = "application/vnd.pypi.simple.v1+json";
const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";

/// The page of torch has 0.4 MB at PyPI and about 1 MB at PyTorch's own index.
const MAX_PAGE: u64 = 16 << 20;

/// Where wheels are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The address below which each project has its page: `https://pypi.org/simple`.
    Index(String),
    /// Wheels under their own names.
    Folder(PathBuf),
}

/// A wheel where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub place: Place,
    /// What the index says of it.
    pub sha256: Option<Sha256>,
}

/// Where a wheel lies. Printed without the password that may be in an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Url(String),
    File(PathBuf),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(url) => f.write_str(&shown(url)),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl Source {
    /// What a user wrote: an address, or else a folder.
    pub fn parse(text: &str) -> Self {
        match text.split_once("://") {
            Some(("http" | "https", _)) => Self::Index(text.trim_end_matches('/').to_string()),
            Some(("file", path)) => Self::Folder(PathBuf::from(path)),
            _ => Self::Folder(PathBuf::from(text)),
        }
    }

    /// Looks for a wheel by its name.
    ///
    /// # Errors
    /// It is not there, or the index cannot be asked.
    pub fn find(&self, client: &Client, wheel: &Wheel) -> Result<Offer> {
        match self {
            Self::Folder(folder) => in_folder(folder, wheel),
            Self::Index(base) => {
                let url = format!("{base}/{}/", wheel.project);
                let page = client.page(&url, ACCEPT, MAX_PAGE)?;
                let listed = if page.content_type.starts_with(JSON) { in_json(&page, wheel) } else { in_html(&page, wheel) };
                let absent = || format!("the index has no `{}`", wheel.file);
                listed?.ok_or_else(|| NetworkTrouble { url: shown(&url), problem: absent() }.into())
            }
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Index(url) => f.write_str(&shown(url)),
            Self::Folder(path) => path.display().fmt(f),
        }
    }
}

fn in_folder(folder: &Path, wheel: &Wheel) -> Result<Offer> {
    let path = folder.join(&wheel.file);
    if !path.is_file() {
        bail!(
            "there is no `{}` in `{}`: put it there, from the page of `{}` in a package index",
            wheel.file,
            folder.display(),
            wheel.project
        );
    }
    Ok(Offer { place: Place::File(path), sha256: None })
}

#[derive(Deserialize)]
struct Project {
    files: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: std::collections::BTreeMap<String, String>,
}

fn in_json(page: &Page, wheel: &Wheel) -> Result<Option<Offer>> {
    let project: Project =
        serde_json::from_str(&page.text).with_context(|| format!("reading the index page `{}`", shown(&page.url)))?;
    Ok(project.files.into_iter().find(|file| file.filename == wheel.file).map(|file| Offer {
        place: Place::Url(joined(&page.url, &file.url)),
        sha256: file.hashes.get("sha256").and_then(|hash| Sha256::from_hex(hash)),
    }))
}

fn in_html(page: &Page, wheel: &Wheel) -> Result<Option<Offer>> {
    let anchor = Regex::new(r#"(?is)<a\s[^>]*?href\s*=\s*["']([^"']*)["'][^>]*>([^<]*)</a>"#)?;
    let found = anchor.captures_iter(&page.text).find(|anchor| unescaped(anchor[2].trim()) == wheel.file);
    Ok(found.map(|anchor| {
        let href = unescaped(&anchor[1]);
        let (path, fragment) = href.split_once('#').unwrap_or((&href, ""));
        let sha256 = fragment.split('&').find_map(|part| part.strip_prefix("sha256=")).and_then(Sha256::from_hex);
        Offer { place: Place::Url(joined(&page.url, path)), sha256 }
    }))
}

/// The references that an address or a name of a wheel may hold.
fn unescaped(text: &str) -> String {
    text.replace("&#43;", "+").replace("&#x2B;", "+").replace("&#x2b;", "+").replace("&amp;", "&")
}

/// A link as an address: RFC 3986, section 5, for what an index writes.
fn joined(base: &str, link: &str) -> String {
    if link.contains("://") {
        return link.to_string();
    }
    let base = base.split(['?', '#']).next().unwrap_or(base);
    let Some((scheme, rest)) = base.split_once("://") else { return link.to_string() };
    if let Some(other_server) = link.strip_prefix("//") {
        return format!("{scheme}://{other_server}");
    }
    let (server, folder) = rest.split_once('/').unwrap_or((rest, ""));
    let mut path: Vec<&str> = if link.starts_with('/') { Vec::new() } else { folder.split('/').collect() };
    path.pop();
    for part in link.trim_start_matches('/').split('/') {
        match part {
            ".." => drop(path.pop()),
            "." => {}
            part => path.push(part),
        }
    }
    format!("{scheme}://{server}/{}", path.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::computer::libtorch::pins;
    use crate::computer::libtorch::wheel::Flavour;

    fn page(content_type: &str, text: &str) -> Page {
        let url = "https://index.example/whl/rocm6.4/torch/".to_string();
        Page { url, content_type: content_type.to_string(), text: text.to_string() }
    }

    #[test]
    fn links_are_relative_to_their_page() {
        let base = "https://index.example/whl/rocm6.4/torch/?x=1";
        for (link, url) in [
            ("https://files.example/a.whl", "https://files.example/a.whl"),
            ("//files.example/a.whl", "https://files.example/a.whl"),
            ("/whl/a.whl", "https://index.example/whl/a.whl"),
            ("a.whl", "https://index.example/whl/rocm6.4/torch/a.whl"),
            ("../../files/./a.whl", "https://index.example/whl/files/a.whl"),
            ("../../../../../../a.whl", "https://index.example/a.whl"),
        ] {
            assert_eq!(joined(base, link), url);
        }
    }

    #[test]
    fn a_page_of_pytorch_s_own_index_is_read() {
        let wheel = pins::release(Flavour::Rocm, "x86_64").unwrap().wheels.remove(0);
        let hash = Sha256::of(b"wheel");
        let text = format!(
            "<!DOCTYPE html>\n<a href=\"/whl/other.whl#sha256={hash}\">other.whl</a><br/>\n<a\n  data-x=\"1\" \
             href=\"/whl/rocm6.4/torch-2.9.1%2Brocm6.4-cp313-cp313-manylinux_2_28_x86_64.whl#sha256={hash}\" \
             data-core-metadata=\"sha256=00\">torch-2.9.1+rocm6.4-cp313-cp313-manylinux_2_28_x86_64.whl</a><br/>\n"
        );
        let offer = in_html(&page("text/html", &text), &wheel).unwrap().expect("it is listed");
        assert_eq!(offer.sha256, Some(hash));
        let url = "https://index.example/whl/rocm6.4/torch-2.9.1%2Brocm6.4-cp313-cp313-manylinux_2_28_x86_64.whl";
        assert_eq!(offer.place, Place::Url(url.to_string()));
        assert_eq!(in_html(&page("text/html", "<a href=\"x.whl\">x.whl</a>"), &wheel).unwrap(), None);
    }

    #[test]
    fn what_a_user_writes_is_an_index_or_a_folder() {
        assert_eq!(Source::parse("https://pypi.org/simple/"), Source::Index("https://pypi.org/simple".to_string()));
        assert_eq!(Source::parse("file:///srv/wheels"), Source::Folder(PathBuf::from("/srv/wheels")));
        assert_eq!(Source::parse("wheels"), Source::Folder(PathBuf::from("wheels")));
    }
}
