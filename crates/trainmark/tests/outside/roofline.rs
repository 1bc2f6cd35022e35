//! `trainmark machine` feeds `trainmark run` and two columns of the reports, all through the program: what
//! was measured is kept, rows are held against it, and a row that the hardware cannot do is found out.

use crate::support::place::{Place, said};

/// A trainer that says, in the protocol's words, how long it trained and how many operations that took.
fn claims(operations: &str) -> String {
    let events = [
        r#"{"event":"started","protocol":1,"threads":1,"precision":"float32"}"#.to_owned(),
        r#"{"event":"epoch","epoch":1,"loss":0.5,"seconds":0.01}"#.to_owned(),
        format!(r#"{{"event":"trained","train_s":0.01,"steps":10,{operations}}}"#),
    ];
    let lines = events.iter().map(|event| format!("echo ':::TRAINMARK {event}'"));
    // Its clock must not exceed the harness's.
    let script = lines.collect::<Vec<_>>().join("; ") + "; sleep 0.1; echo Test Accuracy: 95.67%";
    script.replace('{', "{{").replace('}', "}}")
}

#[test]
fn what_the_machine_can_do_becomes_two_columns_and_finds_the_implausible_row() {
    let place = Place::new();
    let measured = place.trainmark("machine").output().unwrap();
    assert!(measured.status.success(), "{}", said(&measured));
    let stored = place.trainmark("machine").args(["--stored", "--json"]).output().unwrap();
    let stored: serde_json::Value = serde_json::from_slice(&stored.stdout).unwrap();

    // 10 MFLOP in 10 ms are 1 GFLOP/s, which any machine does; 10 PFLOP/s none; and where nearly all of
    // them were skipped, as the trainer declares, it may look so.
    let rows = [
        ("honest", r#""dense_flop":1e7,"executed_flop":1e7"#, "measured"),
        ("skipper", r#""dense_flop":1e14,"executed_flop":1e7"#, "measured"),
        ("silent", r#""dense_flop":1e14"#, "implausible"),
        ("boaster", r#""dense_flop":1e14,"executed_flop":1e14"#, "implausible"),
    ];
    for (name, operations, status) in rows {
        let suite = place.suite(&claims(operations), "");
        let text = std::fs::read_to_string(&suite).unwrap();
        std::fs::write(&suite, text.replace("\"Shell\"", &format!("\"{name}\""))).unwrap();
        let output = place.run(&suite, &["--quick"]);
        assert_eq!(output.status.success(), status == "measured", "{name}: {}", said(&output));
        let results = place.results();
        let result = results.iter().find(|it| it["executable"] == name).unwrap();
        assert_eq!(result["status"], status, "{name}: {}", result["reason"]);
        // The record has what it was held against.
        assert_eq!(result["capability"], stored, "{name}");
        if status == "implausible" {
            let reason = result["reason"].as_str().unwrap();
            for words in ["10000000.0 GFLOP/s", "the hardware reaches"] {
                assert!(reason.contains(words), "{reason}");
            }
            continue;
        }
        let roofline = &result["roofline"];
        assert_eq!(roofline["achieved_flop_per_s"], 1e9, "{roofline}");
        let (share, peak) = (&roofline["share"], &roofline["peak_flop_per_s"]);
        let expected = 1e9 / peak.as_f64().unwrap();
        assert!((share.as_f64().unwrap() - expected).abs() < 1e-12, "{roofline}");
    }

    let mut report = place.trainmark("report");
    report.args(["--input", "out", "--output", "report.json", "--markdown", "report.md"]);
    let output = report.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let markdown = std::fs::read_to_string(place.path("report.md")).unwrap();
    let header = markdown.lines().find(|line| line.contains("| GFLOP/s |")).expect("a column");
    assert!(header.contains("| Of Peak FLOP/s (%) |"), "{header}");
    let cells = |line: &str| -> Vec<String> {
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let at = cells(header).iter().position(|cell| cell == "GFLOP/s").unwrap();
    let mut table = markdown.lines().skip_while(|line| *line != header).skip(2);
    let row = table.find(|line| line.contains("honest")).expect("a row");
    assert!(cells(row)[at].starts_with("1.0"), "{row}");
    assert!(cells(row)[at + 1].parse::<f64>().is_ok_and(|share| share > 0.0), "{row}");
    for name in ["silent", "boaster"] {
        let told = markdown.lines().any(|line| line.contains(name) && line.contains("implausible"));
        assert!(told, "{name}: {markdown}");
    }
}
