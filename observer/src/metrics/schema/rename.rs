//! Schemas that are like go's under other names, as rules for the differences.

use super::{CallFamily, LabelSource, Spelling, go};

/// A library's names of go's families and labels.
pub(super) struct Rules {
    pub(super) spelling: Spelling,
    /// Go's name of a label, and the library's name.
    pub(super) labels: &'static [(&'static str, &'static str)],
    /// Go's name of a family, the library's name, and its help.
    pub(super) families: &'static [(&'static str, &'static str, &'static str)],
    /// Families that go does not have.
    pub(super) more: &'static [CallFamily],
}

impl Rules {
    /// The families of the library, go's in their order first.
    pub(super) fn families(&self) -> Vec<CallFamily> {
        let renamed = go::FAMILIES.iter().chain(self.more).map(|family| self.renamed(family));
        renamed.collect()
    }

    fn renamed(&self, of: &CallFamily) -> CallFamily {
        let mut renamed = of.clone();
        let family = &mut renamed.family;
        if let Some((_, name, help)) = self.families.iter().find(|(go, ..)| *go == family.name) {
            (family.name, family.help) = (*name, *help);
        }
        for (name, says) in renamed.labels.to_mut() {
            if let Some((_, other)) = self.labels.iter().find(|(go, _)| *go == *name) {
                *name = *other;
            }
            match says {
                LabelSource::Type(spelling) | LabelSource::Code(spelling) => {
                    *spelling = self.spelling;
                }
                _ => {}
            }
        }
        renamed
    }
}

#[cfg(test)]
mod tests {
    use super::{super::python, go};

    #[test]
    fn rules_are_about_what_go_has() {
        for rules in [&python::RULES, &python::LEGACY_RULES] {
            for (of, ..) in rules.families {
                assert!(go::FAMILIES.iter().any(|family| family.family.name == *of), "{of}");
            }
            for (of, _) in rules.labels {
                let mut labels = go::FAMILIES.iter().flat_map(|family| family.labels.iter());
                assert!(labels.any(|(name, _)| name == of), "{of}");
            }
        }
    }
}
