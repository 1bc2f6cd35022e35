//! A chart on the page, with its figures as a table for those who want them or cannot see it.

use crate::chart::Chart;
use maud::{Markup, html};

/// The chart, and its table folded below.
pub fn figure(chart: &Chart) -> Markup {
    html! {
        figure id=(chart.name) {
            figcaption { (chart.title) }
            (chart.inline())
            details {
                summary { "Figures" }
                div.wide tabindex="0" role="region" aria-label={ "Figures of " (chart.title) } {
                    table {
                        thead { tr { @for title in &chart.table.head { th scope="col" { (title) } } } }
                        tbody {
                            @for (place, cells) in &chart.table.rows {
                                tr data-r=(place) {
                                    @for (index, cell) in cells.iter().enumerate() {
                                        @if index == 0 { th scope="row" { bdi { (cell) } } }
                                        @else { td { (cell) } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
