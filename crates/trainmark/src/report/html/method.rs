//! What the figures mean, in short, and where each came from.

use super::SHOWN;
use crate::report::exhibit::Exhibit;
use crate::report::text::visible;
use indexmap::{IndexMap, IndexSet};
use maud::{Markup, html};

/// Sources of one figure that are listed.
const MAX_SOURCES: usize = 6;

pub fn method(exhibit: &Exhibit) -> Markup {
    let sources = sources(exhibit);
    html! {
        p { "Each trainer is a program of its own. A small launcher starts it, one at a time, waits for \
             everything that it leaves behind, and reports what the operating system says of that tree of \
             processes. Repeats take turns in rounds over all rows in shuffled order, so that drift and heat \
             fall on all alike; every run is kept." }
        dl {
            dt { "Train time" } dd { "The trainer's monotonic clock around all of its epochs, devices synchronised \
                before each reading; loading, compilation and evaluation are outside. It must fit within the wall clock \
                that the harness keeps." }
            dt { "CPU time" } dd { "User and system seconds of the whole process tree, start-up and loading included." }
            dt { "Wall time" } dd { "From the start of the process to its end, on the launcher's monotonic clock." }
            dt { "Peak memory" } dd { "Of the process tree, in megabytes of 10⁶ bytes, as the operating system counts it." }
            dt { "Accuracy" } dd { "The harness compares the labels that the trainer predicted with the test set's. What a \
                trainer only claims is marked †." }
            dt { "Medians and intervals" } dd { "Figures are medians over the runs. A median's interval lies between two \
                order statistics and needs six runs. A speed-up's interval inverts a rank test: Wilcoxon's signed-rank \
                test where two rows ran in the same rounds, Mann and Whitney's where they did not. Neither assumes a \
                distribution; all are 95 %." }
            dt { "Ranking" } dd { "Only rows that were measured on a real device and reached their model's target \
                accuracy, among rows of the same model, configuration, dataset and machine." }
        }
        @if !sources.is_empty() {
            h3 { "Where each figure came from" }
            table { tbody { @for (figure, from) in &sources {
                tr {
                    th scope="row" { bdi { (visible(&figure.replace('_', " "), SHOWN)) } }
                    td { bdi { (from.iter().take(MAX_SOURCES).map(String::as_str).collect::<Vec<_>>().join("; ")) } }
                }
            } } }
        }
    }
}

/// What the files say of their figures' sources.
fn sources(exhibit: &Exhibit) -> IndexMap<String, IndexSet<String>> {
    let mut sources: IndexMap<String, IndexSet<String>> = IndexMap::new();
    for file in exhibit.entries().filter_map(|(_, entry)| entry.file) {
        for (figure, source) in file.sources.iter().take(40) {
            let source = visible(source, 200).into_owned();
            sources.entry(visible(figure, SHOWN).into_owned()).or_default().insert(source);
        }
    }
    sources.truncate(60);
    sources
}
