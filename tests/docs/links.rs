//! Every relative link of the documents leads to a file, and its anchor to a heading; the book has every page.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use crate::markdown::{documents, is_markdown, path, prose, text};

/// Link targets of a text, with their lines: `[…](target)`, images among them.
fn links(document: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in prose(document).lines().enumerate() {
        // Code spans show links, they are none.
        let outside: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let mut rest = outside.as_str();
        while let Some((_, behind)) = rest.split_once("](") {
            let Some((target, behind)) = behind.split_once(')') else {
                break;
            };
            found.push((index + 1, target.to_owned()));
            rest = behind;
        }
    }
    found
}

/// The anchors of a document, as GitHub and mdBook make them of headings.
fn anchors(document: &str) -> BTreeSet<String> {
    let mut seen = BTreeMap::<String, usize>::new();
    let mut anchors = BTreeSet::new();
    for line in prose(document).lines() {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let slug: String = heading
            .trim()
            .chars()
            .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
            .map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() })
            .collect();
        let count = seen.entry(slug.clone()).or_default();
        anchors.insert(if *count == 0 { slug } else { format!("{slug}-{count}") });
        *count += 1;
    }
    anchors
}

/// A path without `.` and `..`; `None` if it leaves the repository.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => normal.pop().then_some(())?,
            Component::Normal(name) => normal.push(name),
            _ => {}
        }
    }
    Some(normal)
}

#[test]
fn every_relative_link_leads_to_a_file_and_its_anchor_to_a_heading() {
    let mut broken = Vec::new();
    let mut count = 0;
    for document in documents() {
        let content = text(&document);
        for (number, link) in links(&content) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            count += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() {
                Some(PathBuf::from(&document))
            } else {
                normal(&Path::new(&document).parent().unwrap().join(file))
            };
            let target = target.filter(|target| path(target.to_str().unwrap()).exists());
            let right = target.is_some_and(|target| {
                let target = target.to_str().unwrap();
                anchor.is_empty() || (is_markdown(target) && anchors(&text(target)).contains(anchor))
            });
            if !right {
                broken.push(format!("{document}:{number}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
    assert!(count > 100, "only {count} links were found: has the search broken?");
}

#[test]
fn the_book_has_every_page_of_docs_and_each_page_once() {
    let pages: Vec<String> = links(&text("docs/SUMMARY.md"))
        .into_iter()
        .map(|(_, page)| page)
        .collect();
    let listed: BTreeSet<String> = pages
        .iter()
        .map(|page| {
            normal(&Path::new("docs").join(page))
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(listed.len(), pages.len(), "a page is listed twice");
    let there: BTreeSet<String> = documents()
        .into_iter()
        .filter(|document| document.starts_with("docs/") && document != "docs/SUMMARY.md")
        .collect();
    let missing: Vec<_> = there.difference(&listed).collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md doesn't list {missing:?}");
}

#[test]
fn links_and_anchors_are_read_as_they_are_meant() {
    assert_eq!(
        links("see [a](b.md#c), ![d](e.png) and `[f](g)`\n```\n[h](i)\n```"),
        [(1, "b.md#c".to_owned()), (1, "e.png".to_owned())]
    );
    let headings = "# One: `two`, three\n## One two\n## One two\n#hash\n```\n# no\n```";
    let expected = ["one-two-three", "one-two", "one-two-1"].map(str::to_owned);
    assert_eq!(anchors(headings), expected.into());
    assert_eq!(normal(Path::new("docs/../a/./b")), Some(PathBuf::from("a/b")));
    assert_eq!(normal(Path::new("docs/../../a")), None);
}
