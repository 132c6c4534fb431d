//! Words and phrases that users do not meet in documents, in `deploy` and in the messages of the programs: the part of
//! CONTRIBUTING.md's rules about English that a program can check without false alarms.

use std::collections::BTreeSet;
use std::fs;
use std::iter::Peekable;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use proc_macro2::{TokenStream, TokenTree, token_stream::IntoIter};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// A word or phrase to avoid, and the one to use.
const AVOID: [(&str, &str); 24] = [
    ("beside", "next to"),
    ("by which", "a sentence of its own"),
    ("call end", "finished call"),
    ("header block", "field block (RFC 9113)"),
    ("header blocks", "field blocks (RFC 9113)"),
    ("in step with", "the same as"),
    ("kernel program", "BPF program"),
    ("kernel programs", "BPF programs"),
    ("look-up", "lookup"),
    ("look-ups", "lookups"),
    ("lost record", "dropped record"),
    ("lost records", "dropped records"),
    ("of which", "a sentence of its own"),
    ("of whom", "a sentence of its own"),
    ("out of step", "out of sync"),
    ("processor", "CPU"),
    ("processors", "CPUs"),
    ("tells of", "reports"),
    ("told", "reported, published or logged"),
    ("to who", "to the user or program that"),
    ("under way", "in flight, or joined late"),
    ("unseen", "not_seen, or a gap"),
    ("untold", "not_seen"),
    ("whereof", "a sentence of its own"),
];

/// A sentence does not begin with these, unless it is a question.
const BEGINNINGS: [&str; 6] = ["Of", "What", "Who", "Whoever", "Whom", "Whose"];

/// Where a word may stand nevertheless: the file, the word, and the reason.
const EXCEPTIONS: [(&str, &str, &str); 7] = [
    ("CONTRIBUTING.md", "kernel program", LISTED),
    ("CONTRIBUTING.md", "look-up", LISTED),
    ("CONTRIBUTING.md", "out of step", LISTED),
    ("CONTRIBUTING.md", "processor", LISTED),
    ("CONTRIBUTING.md", "under way", LISTED),
    ("CONTRIBUTING.md", "unseen", LISTED),
    ("xtask/src/vm/filters.rs", "processor", "the name of an end-to-end case"),
];

const LISTED: &str = "its table lists the words to avoid";

/// The texts of one file, each with whether it consists of sentences.
type Texts = Vec<(String, bool)>;

/// Reads the texts of a file.
type Read = fn(&Path) -> Result<Texts>;

#[test]
fn words_to_avoid_are_not_used() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let mut found = Vec::new();
    let mut files = 0;
    let folders: [(&str, Read); 4] =
        [("docs", documents), ("deploy", lines), ("observer/src", visible), ("xtask/src", visible)];
    for (folder, read) in folders {
        for path in files_below(&root.join(folder))? {
            files += 1;
            check(root, &path, read, &mut found)?;
        }
    }
    for name in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"] {
        check(root, &root.join(name), documents, &mut found)?;
    }
    ensure!(files > 100, "only {files} files");
    ensure!(found.is_empty(), "words to avoid:\n{}", found.join("\n"));
    Ok(())
}

fn check(root: &Path, path: &Path, read: Read, found: &mut Vec<String>) -> Result<()> {
    let name = path.strip_prefix(root)?.display().to_string();
    for (text, is_prose) in read(path).with_context(|| name.clone())? {
        for (word, instead) in words_in(&text) {
            if !EXCEPTIONS.iter().any(|(file, allowed, _)| *file == name && *allowed == word) {
                found.push(format!("{name}: \"{word}\", not \"{instead}\": {text:.100}"));
            }
        }
        if let Some(sentence) = is_prose.then(|| beginning(&text)).flatten() {
            found.push(format!(
                "{name}: a sentence that begins with a noun clause: {sentence:.100}"
            ));
        }
    }
    Ok(())
}

/// The words to avoid that are in a text, whatever its line breaks and its capitals.
fn words_in(text: &str) -> Vec<(&'static str, &'static str)> {
    let text = text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    let is_word = |(at, word): (usize, &str)| {
        let (before, after) = (text.get(..at), text.get(at + word.len()..));
        !before.is_some_and(|text| text.ends_with(is_part))
            && !after.is_some_and(|text| text.starts_with(is_part))
    };
    AVOID.into_iter().filter(|(word, _)| text.match_indices(word).any(is_word)).collect()
}

/// The first sentence that begins as none should.
fn beginning(text: &str) -> Option<&str> {
    let mut sentences = text.split_inclusive(". ").flat_map(|text| text.split_inclusive("? "));
    sentences.find(|sentence| {
        let first = sentence.split_whitespace().next().unwrap_or_default();
        BEGINNINGS.contains(&first) && !sentence.trim_end().ends_with('?')
    })
}

/// The blocks of a document without its code; nothing if a command writes it.
fn documents(path: &Path) -> Result<Texts> {
    let mut texts = Vec::new();
    let is_generated = path.parent().is_some_and(|folder| folder.ends_with("generated"));
    if is_generated || path.extension().is_none_or(|extension| extension != "md") {
        return Ok(texts);
    }
    let (mut text, mut is_code) = (String::new(), false);
    for event in Parser::new_ext(&fs::read_to_string(path)?, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::CodeBlock(_)) => is_code = true,
            Event::End(TagEnd::CodeBlock) => is_code = false,
            Event::Text(more) if !is_code => text.push_str(&more),
            Event::Code(_) => text.push('`'),
            Event::SoftBreak => text.push(' '),
            Event::End(
                end @ (TagEnd::Paragraph | TagEnd::Item | TagEnd::TableCell | TagEnd::Heading(_)),
            ) => {
                let is_prose = matches!(end, TagEnd::Paragraph | TagEnd::Item);
                texts.push((std::mem::take(&mut text), is_prose));
            }
            _ => {}
        }
    }
    Ok(texts)
}

/// A whole file, comment signs left out.
fn lines(path: &Path) -> Result<Texts> {
    let text = fs::read_to_string(path)?;
    let lines = text.lines().map(|line| line.trim_start_matches([' ', '#']));
    Ok(vec![(lines.collect::<Vec<_>>().join(" "), false)])
}

/// The string literals of a source file, and the comments that clap makes a program's help of. A file that is not Rust
/// is included by one that is.
fn visible(path: &Path) -> Result<Texts> {
    let is_test = path.components().any(|part| {
        let part = part.as_os_str().to_string_lossy();
        part == "tests" || part == "tests.rs"
    });
    let mut texts = Vec::new();
    let text = fs::read_to_string(path)?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("rs") if !is_test => {
            let tokens = text.parse::<TokenStream>().map_err(|error| anyhow!("{error}"))?;
            literals(tokens, text.contains("clap::"), &mut texts);
        }
        Some("txt" | "html") => texts.push(text),
        _ => {}
    }
    Ok(texts.into_iter().map(|text| (text, false)).collect())
}

fn literals(tokens: TokenStream, is_help: bool, texts: &mut Vec<String>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(sign) if sign.as_char() == '#' => {
                attribute(&mut tokens, is_help, texts);
            }
            TokenTree::Group(group) => literals(group.stream(), is_help, texts),
            TokenTree::Literal(literal) => texts.extend(string(&literal.to_string())),
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
}

/// Reads what follows a `#`: comments are attributes, too. Reasons of lints are not for users, and neither are tests.
fn attribute(tokens: &mut Peekable<IntoIter>, is_help: bool, texts: &mut Vec<String>) {
    tokens.next_if(|token| matches!(token, TokenTree::Punct(sign) if sign.as_char() == '!'));
    let Some(TokenTree::Group(group)) =
        tokens.next_if(|token| matches!(token, TokenTree::Group(_)))
    else {
        return;
    };
    let attribute = group.stream().to_string().replace(' ', "");
    if attribute == "cfg(test)" {
        // The item ends with its body, or without one.
        for token in tokens.by_ref() {
            match token {
                TokenTree::Group(group) if group.delimiter() == proc_macro2::Delimiter::Brace => {
                    break;
                }
                TokenTree::Punct(sign) if sign.as_char() == ';' => break,
                _ => {}
            }
        }
    } else if !["expect(", "allow("].iter().any(|start| attribute.starts_with(start))
        && (is_help || !attribute.starts_with("doc="))
    {
        literals(group.stream(), is_help, texts);
    }
}

/// The text of a literal, if it is a string, with its escapes as spaces.
fn string(literal: &str) -> Option<String> {
    let text = literal.trim_start_matches('r').trim_matches('#');
    let text = text.strip_prefix('"')?.strip_suffix('"')?;
    Some(text.replace("\\\n", "").replace("\\n", " ").replace('\\', " "))
}

fn files_below(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files.append(&mut files_below(&path)?);
        } else {
            files.insert(path);
        }
    }
    Ok(files)
}

#[test]
fn words_are_found_in_any_form() -> Result<()> {
    let words = |text: &str| words_in(text).into_iter().map(|(word, _)| word).collect::<Vec<_>>();
    assert_eq!(words("Two maps, of\nwhich one is full. Processors."), ["of which", "processors"]);
    assert!(words("unseen_bytes, besides").is_empty());
    assert_eq!(beginning("It is so. What is left is lost."), Some("What is left is lost."));
    assert_eq!(beginning("Of course? What is left?"), None);
    let source = r##"
        /// Told by clap::Parser.
        struct A;
        #[expect(lint, reason = "untold")]
        fn f() { bail!("it \
            was told {}", r#"un\seen"#) }
        #[cfg(test)]
        mod tests { const A: &str = "whereof"; }
        const B: &str = "untold";
    "##;
    let mut texts = Vec::new();
    literals(source.parse().map_err(|error| anyhow!("{error}"))?, false, &mut texts);
    let texts: Vec<_> =
        texts.iter().map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(texts, ["it was told {}", "un seen", "untold"]);
    Ok(())
}
