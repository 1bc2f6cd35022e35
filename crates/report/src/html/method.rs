//! The meaning of the figures, in short, and their sources.

use super::look::SHOWN;
use crate::exhibit::Exhibit;
use crate::text::visible;
use indexmap::{IndexMap, IndexSet};
use maud::{Markup, html};

/// Sources of one figure that are listed.
const MAX_SOURCES: usize = 6;

pub fn method(exhibit: &Exhibit) -> Markup {
    let mut sources: IndexMap<&str, IndexSet<String>> = IndexMap::new();
    for (_, entry) in exhibit.entries() {
        for (figure, source) in entry.row.record.sources.iter().take(40) {
            sources.entry(figure).or_default().insert(visible(source, 200).into_owned());
        }
    }
    let is_known = |it: &&record::figures::Figure| {
        exhibit.entries().any(|(_, entry)| it.of(&entry.row.record).is_some())
    };
    html! {
        p { "Each trainer is a program. A small launcher starts one trainer at a time, waits for all processes \
             that it leaves behind, and reports the operating system's account of that tree of processes. \
             Repeats take turns: each round trains all rows of a run in shuffled order, so that drift and heat affect \
             them alike. Every sample is kept." }
        dl {
            @for figure in exhibit.summary.figures.iter().filter(is_known) {
                dt { bdi { (visible(&figure.title(), SHOWN)) } } dd { (figure.help) "." }
            }
            dt { "Medians and intervals" } dd { "Figures are medians over the samples. A median's interval lies between \
                two order statistics and needs six samples. A speed-up's interval inverts a rank test: Wilcoxon's \
                signed-rank test if two rows ran in the same rounds, and Mann and Whitney's test if not. Neither test \
                assumes a distribution. All intervals are 95 %." }
            dt { "Ranking" } dd { "A row is ranked if it was measured on a real device and reached its target. It is \
                ranked among rows of the same model, configuration, dataset and machine." }
        }
        @if !sources.is_empty() {
            h3 { "Sources of the figures" }
            table { tbody { @for (figure, from) in sources.iter().take(60) {
                tr {
                    th scope="row" { bdi { (visible(&figure.replace('_', " "), SHOWN)) } }
                    td { bdi { (from.iter().take(MAX_SOURCES).map(String::as_str).collect::<Vec<_>>().join("; ")) } }
                }
            } } }
        }
    }
}
