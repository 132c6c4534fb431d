//! The documents, checked as a reader uses them: links have targets, examples parse, flags exist, and words are
//! spelled as in a dictionary.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use clap_complete::Shell;
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use saphyr::{LoadableYamlNode as _, Yaml};
use support::rust_files;
use support::stack::workspace;
use unicase::UniCase;

/// The content of a document.
#[derive(Debug, Default)]
struct Document {
    /// The anchors of its headings.
    anchors: BTreeSet<String>,
    links: Vec<String>,
    /// Its code blocks, by language.
    blocks: Vec<(String, String)>,
    /// The text without code blocks and link targets.
    prose: String,
}

impl Document {
    fn read(text: &str) -> Self {
        let mut document = Self::default();
        let (mut heading, mut block) = (None, None);
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push(dest_url.into_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    document.anchors.extend(heading.take().map(|text| anchor(&text)));
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    block = Some((language.into_string(), String::new()));
                }
                Event::End(TagEnd::CodeBlock) => document.blocks.extend(block.take()),
                Event::Text(text) | Event::Code(text) if heading.is_some() => {
                    heading.get_or_insert_default().push_str(&text);
                }
                Event::Text(text) => match &mut block {
                    Some((_, code)) => code.push_str(&text),
                    None => document.prose.push_str(&text),
                },
                Event::SoftBreak | Event::HardBreak | Event::End(_) => document.prose.push('\n'),
                _ => {}
            }
        }
        document
    }
}

/// GitHub's anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// All documents, by path.
fn documents() -> Result<BTreeMap<PathBuf, Document>> {
    let root = workspace()?;
    let mut documents = BTreeMap::new();
    for folder in
        ["", "docs", "docs/generated", "observer-core", ".github", ".github/ISSUE_TEMPLATE"]
    {
        for entry in fs::read_dir(root.join(folder)).context(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path)?;
                documents.insert(path, Document::read(&text));
            }
        }
    }
    ensure!(documents.len() > 10, "only {} documents", documents.len());
    Ok(documents)
}

#[test]
fn generated_documents_name_their_command() -> Result<()> {
    let mut generated = 0;
    for entry in fs::read_dir(workspace()?.join("docs/generated"))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let first = text.lines().next().unwrap_or_default();
        let command = first.strip_prefix("Written by `cargo xtask ");
        ensure!(
            command.is_some_and(|command| command.ends_with("`; do not edit.")),
            "{}: the first line does not name the command that writes it: {first}",
            path.display()
        );
        generated += 1;
    }
    ensure!(generated > 3, "only {generated} generated documents");
    Ok(())
}

#[test]
fn links_lead_somewhere() -> Result<()> {
    let documents = documents()?;
    let mut dead = Vec::new();
    for (path, document) in &documents {
        for link in document.links.iter().filter(|link| !link.contains("://")) {
            let (file, anchor) =
                link.split_once('#').map_or((&**link, None), |(f, a)| (f, Some(a)));
            let target = match file {
                "" => path.clone(),
                _ => path.parent().context("no folder")?.join(file),
            };
            let has_anchor = anchor.is_none_or(|anchor| {
                let target = target.canonicalize().ok().and_then(|target| documents.get(&target));
                target.is_some_and(|document| document.anchors.contains(anchor))
            });
            if !target.exists() || !has_anchor {
                dead.push(format!("{}: {link}", path.display()));
            }
        }
    }
    ensure!(dead.is_empty(), "links without a target: {dead:#?}");
    Ok(())
}

#[test]
fn examples_can_be_read() -> Result<()> {
    let flags = String::from_utf8(observer::cli::completions(Shell::Bash))?;
    let flags: BTreeSet<&str> = flags.split_whitespace().collect();
    let mut read = 0;
    for (path, document) in &documents()? {
        for (language, code) in &document.blocks {
            check(language, code, &flags)
                .with_context(|| format!("{}: a block of {language}:\n{code}", path.display()))?;
            read += 1;
        }
    }
    ensure!(read > 20, "only {read} examples");
    Ok(())
}

fn check(language: &str, code: &str, flags: &BTreeSet<&str>) -> Result<()> {
    match language {
        "sh" => {
            let shell = Command::new("sh").args(["-n", "-c", code]).output()?;
            ensure!(shell.status.success(), "{}", String::from_utf8_lossy(&shell.stderr));
            known_flags(code, flags)
        }
        "yaml" => Ok(Yaml::load_from_str(code).map(drop)?),
        // Output of a program, a drawing, a query for Prometheus.
        "" | "promql" => Ok(()),
        _ => bail!("unknown language"),
    }
}

/// An error if the daemon is run with a flag that it does not have.
fn known_flags(code: &str, flags: &BTreeSet<&str>) -> Result<()> {
    for line in code.replace("\\\n", " ").lines() {
        let line = line.split(" #").next().unwrap_or_default();
        let before = |word: &&str| *word == "sudo" || word.contains('=');
        let mut words = line.split_whitespace().skip_while(before);
        if words.next().is_none_or(|program| program.rsplit('/').next() != Some("observer")) {
            continue;
        }
        for word in words.take_while(|word| !matches!(*word, "|" | "&" | "&&" | ">")) {
            let flag = word.split('=').next().unwrap_or_default();
            let is_known = !flag.starts_with("--") || flag == "--" || flags.contains(flag);
            ensure!(is_known, "the daemon has no {flag}");
        }
    }
    Ok(())
}

#[test]
fn words_are_spelled_right() -> Result<()> {
    let mut wrong = Vec::new();
    for (path, document) in &documents()? {
        misspelled(path, &document.prose, &mut wrong);
    }
    for path in rust_files(&workspace()?)? {
        let text = fs::read_to_string(&path)?;
        let comments = text.lines().filter_map(|line| Some(line.split_once("//")?.1));
        misspelled(&path, &comments.collect::<Vec<_>>().join("\n"), &mut wrong);
    }
    ensure!(wrong.is_empty(), "words that are spelled wrong: {wrong:#?}");
    Ok(())
}

fn misspelled(path: &Path, text: &str, wrong: &mut Vec<String>) {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.is_ascii());
    // A word with capitals inside is a name.
    for word in words.filter(|word| word.chars().skip(1).all(|c| c.is_ascii_lowercase())) {
        if let Some(right) = typos_dict::WORD.find(&UniCase::ascii(word)) {
            wrong.push(format!("{}: {word}, not {right:?}", path.display()));
        }
    }
}
