//! Reports: one file per format, each a pure function of the summary.
