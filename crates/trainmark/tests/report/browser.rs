//! The HTML report in a real browser, headless, over WebDriver.

use super::html::{as_html, hostile_files};
use super::study::{self, summary_of};
use base64::Engine;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Without the second half, Chromium tries to reach its maker's hosts.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
];

/// A browser with one page open.
struct Browser {
    driver: Child,
    session: String,
    agent: ureq::Agent,
    folder: tempfile::TempDir,
}

impl Browser {
    /// Opens the page. `None` where there is no browser: the test is skipped, or fails where one is
    /// required.
    fn open(page: &str) -> Option<Browser> {
        let started = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut driver = match started {
            Ok(driver) => driver,
            Err(error) => {
                let reason = format!("chromedriver: {error}");
                skip::skipped_unless("TRAINMARK_REQUIRE_BROWSER", reason);
                return None;
            }
        };
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let server =
            format!("http://127.0.0.1:{}/session", port.expect("its first lines name the port"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.html");
        std::fs::write(&file, page).unwrap();
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)));
        let agent = ureq::Agent::from(config.build());
        let mut browser = Browser { driver, session: server, agent, folder };
        let session = browser.call("", capabilities(browser.folder.path()));
        let id = session["sessionId"].as_str().unwrap_or_else(|| panic!("{session}"));
        browser.session = format!("{}/{id}", browser.session);
        // What the browser's own first page does is not ours.
        browser.call("/url", json!({"url": "about:blank"}));
        browser.console();
        browser.requests();
        browser.call("/url", json!({"url": format!("file://{}", file.display())}));
        Some(browser)
    }

    /// One WebDriver command; the value of its answer.
    fn call(&self, command: &str, body: Value) -> Value {
        let url = format!("{}{command}", self.session);
        let mut answer = self.agent.post(&url).send_json(&body).unwrap();
        let mut answer: Value = answer.body_mut().read_json().unwrap();
        let value = answer["value"].take();
        assert!(value.get("error").is_none(), "{command}: {value}");
        value
    }

    fn run(&self, script: &str) -> Value {
        self.call("/execute/sync", json!({"script": script, "args": []}))
    }

    /// One command of Chromium's own protocol.
    fn chromium(&self, command: &str, parameters: Value) -> Value {
        self.call("/goog/cdp/execute", json!({"cmd": command, "params": parameters}))
    }

    /// Everything that the page wrote to the console, violations of its policy included.
    fn console(&self) -> Vec<String> {
        let log = self.call("/se/log", json!({"type": "browser"}));
        let entries = log.as_array().unwrap().iter();
        entries.map(|entry| entry["message"].to_string()).collect()
    }

    /// Every address that a page of ours asked for, its own first.
    fn requests(&self) -> Vec<String> {
        let log = self.call("/se/log", json!({"type": "performance"}));
        let entries = log.as_array().unwrap().iter();
        let messages = entries.map(|entry| {
            serde_json::from_str::<Value>(entry["message"].as_str().unwrap()).unwrap()["message"].take()
        });
        let sent = messages.filter(|message| {
            let page = message["params"]["documentURL"].as_str().unwrap_or_default();
            message["method"] == "Network.requestWillBeSent" && !page.starts_with("chrome://")
        });
        sent.map(|message| message["params"]["request"]["url"].as_str().unwrap().to_owned())
            .collect()
    }

    fn assert_silent(&self) {
        assert_eq!(self.console(), [""; 0]);
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        assert!(requests[0].starts_with("file://"), "{requests:?}");
    }

    /// Text of a column of the shown rows.
    fn column(&self, title: &str) -> Vec<String> {
        let texts = self.run(&format!(
            "const table = document.getElementById('results-table');
             const column = [...table.tHead.rows[0].cells].findIndex((it) => it.textContent === '{title}');
             return [...table.tBodies[0].rows].filter((row) => row.offsetParent !== null)
                 .map((row) => row.cells[column].textContent.trim());"
        ));
        serde_json::from_value(texts).unwrap()
    }

    fn click(&self, title: &str) {
        self.run(&format!(
            "[...document.querySelectorAll('thead button')].find((it) => it.textContent === '{title}').click();"
        ));
    }

    fn choose(&self, field: &str, value: &str) {
        self.run(&format!(
            "const field = document.querySelector('#controls [name={field}]');
             field.value = '{value}';
             field.dispatchEvent(new Event('input', {{ bubbles: true }}));"
        ));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser with its children; without a session there is none.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn capabilities(profile: &Path) -> Value {
    let mut arguments: Vec<String> = FLAGS.map(str::to_owned).into();
    arguments.push(format!("--user-data-dir={}", profile.join("profile").display()));
    let mut options = json!({"args": arguments});
    // Debian's; elsewhere the driver finds its own.
    if Path::new("/usr/bin/chromium").exists() {
        options["binary"] = json!("/usr/bin/chromium");
    }
    json!({"capabilities": {"alwaysMatch": {
        "goog:chromeOptions": options,
        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
    }}})
}

/// Texts that lie on a mark or on another text, boxes that stick out, and whether the page can be moved
/// sideways. A text may touch by the room that its letters leave.
const LAYOUT: &str = "
    const bad = [];
    const box = (it) => it.getBoundingClientRect();
    const seen = (it) => it.checkVisibility() && box(it).width > 0;
    const meet = (a, b, room) => a.left + room < b.right && b.left + room < a.right
        && a.top + room < b.bottom && b.top + room < a.bottom;
    const name = (it) => (it.textContent || it.tagName).slice(0, 40);
    for (const chart of document.querySelectorAll('svg.chart')) {
        if (!seen(chart)) continue;
        const texts = [...chart.querySelectorAll('text')];
        const marks = [...chart.querySelectorAll('g[data-r] path, .f, .l')].filter((it) => !it.matches('.g'));
        texts.forEach((text, index) => {
            for (const other of texts.slice(index + 1))
                if (meet(box(text), box(other), 2)) bad.push(name(text) + ' on ' + name(other));
            for (const mark of marks)
                if (meet(box(text), box(mark), 2)) bad.push(name(text) + ' on a mark');
            const edge = box(chart), own = box(text);
            if (own.left < edge.left - 1 || own.right > edge.right + 1) bad.push(name(text) + ' sticks out');
        });
    }
    for (const bar of document.querySelectorAll('.bar')) {
        const parts = [...bar.children].filter(seen);
        parts.forEach((part, index) => {
            for (const other of parts.slice(index + 1))
                if (meet(box(part), box(other), 1)) bad.push('bar: ' + name(part) + ' on ' + name(other));
        });
    }
    for (const it of document.querySelectorAll('body *'))
        // A screen can move a wide table; paper cannot.
        if (!it.closest(matchMedia('print').matches ? 'svg' : '.wide, pre, svg') && box(it).right > innerWidth + 1) bad.push('wide: ' + it.tagName + ' ' + name(it));
    if (document.documentElement.scrollWidth > innerWidth) bad.push('the page moves sideways');
    return bad.slice(0, 20);";

impl Browser {
    /// A screen or sheet of that many pixels, and what is wrong on it.
    fn laid_out(&self, width: u32, medium: &str) -> Value {
        let mobile = width < 800 && medium.is_empty();
        let metrics =
            json!({"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": mobile});
        self.chromium("Emulation.setDeviceMetricsOverride", metrics);
        self.chromium("Emulation.setEmulatedMedia", json!({"media": medium, "features": []}));
        let found = self.run(LAYOUT);
        // To look at: TRAINMARK_PICTURES=FOLDER cargo test --test report browser
        if let Some(folder) = std::env::var_os("TRAINMARK_PICTURES") {
            let options = json!({"format": "png", "captureBeyondViewport": true});
            let picture = self.chromium("Page.captureScreenshot", options)["data"].take();
            let bytes = base64::engine::general_purpose::STANDARD.decode(picture.as_str().unwrap());
            let title = self.run("return document.title.toLowerCase().replace(/[^a-z]+/g, '-')");
            let name = format!("{}-{width}{medium}.png", title.as_str().unwrap());
            std::fs::write(Path::new(&folder).join(name), bytes.unwrap()).unwrap();
        }
        found
    }
}

#[test]
fn no_label_lies_on_a_mark_or_another_label_and_nothing_is_too_wide_on_screen_phone_and_paper() {
    let mut lone = study::racing();
    lone.retain(|file| file.executable == "MNISTClassic" && file.backend == "cpu");
    let pages = [
        as_html(&summary_of(&study::racing())),
        as_html(&summary_of(&lone)),
        super::html::history_page(),
    ];
    for page in pages {
        let Some(browser) = Browser::open(&page) else { return };
        // A sheet of A4 without its margins has 688 pixels.
        for (width, medium) in [(1280, ""), (390, ""), (320, ""), (768, ""), (688, "print")] {
            assert_eq!(browser.laid_out(width, medium), json!([]), "{width} pixels {medium}");
        }
        browser.assert_silent();
    }
}

fn numbers(texts: &[String]) -> Vec<f64> {
    let number =
        |text: &String| text.split([' ', '×']).next().unwrap().replace(',', "").parse().ok();
    texts.iter().filter_map(number).collect()
}

#[test]
fn the_page_renders_silently_sorts_and_filters() {
    let page = as_html(&summary_of(&study::racing()));
    let Some(browser) = Browser::open(&page) else { return };
    browser.assert_silent();
    // What this machine lacks has no row.
    let rows = study::rows().len() - 1;
    assert_eq!(browser.run("return document.getElementById('shown').value"), json!("11 rows"));
    // Every chart has an area, and says what it shows to those who do not see it.
    let charts = browser.run(
        "return [...document.querySelectorAll('svg.chart')].map((it) =>
             [it.getBoundingClientRect().width > 300, it.getBoundingClientRect().height > 50,
              it.querySelector('desc').textContent.length > 50,
              it.parentNode.querySelector('table').rows.length > 1])",
    );
    let charts = charts.as_array().unwrap();
    assert!(charts.len() > 15, "{} charts", charts.len());
    assert!(charts.iter().all(|it| *it == json!([true, true, true, true])), "{charts:?}");

    browser.click("Train Loop (s)");
    let times = browser.column("Train Loop (s)");
    let known = numbers(&times);
    assert!(known.len() == rows - 1 && known.is_sorted(), "{times:?}");
    assert_eq!(times[rows - 1..], ["n/a"], "what is not known comes last");
    browser.click("Train Loop (s)");
    let times = browser.column("Train Loop (s)");
    assert!(numbers(&times).iter().rev().is_sorted(), "{times:?}");
    assert_eq!(times[rows - 1..], ["n/a"]);
    browser.click("Backend");
    assert!(browser.column("Backend").is_sorted());
    for title in ["GFLOP/s", "Of Peak FLOP/s (%)", "To Target (s)"] {
        browser.click(title);
        let known = numbers(&browser.column(title));
        assert!(known.len() > 5 && known.is_sorted(), "{title}: {known:?}");
    }
    browser.choose("text", "slower");
    let verdicts = browser.column("Against MNISTClassic/cpu");
    assert!(
        !verdicts.is_empty() && verdicts.iter().all(|it| it.contains("x slower [")),
        "{verdicts:?}"
    );
    browser.choose("text", "pytorch");
    assert_eq!(browser.column("Executable"), ["PyTorch"; 4]);
    assert_eq!(browser.run("return document.getElementById('shown').value"), json!("4 of 11 rows"));
    let marks = browser.run(
        "return [...document.querySelectorAll('#time svg g[data-r] title')]
             .filter((it) => getComputedStyle(it.parentNode).display !== 'none').map((it) => it.textContent)",
    );
    let marks = marks.as_array().unwrap();
    assert_eq!(marks.len(), 3);
    assert!(marks.iter().all(|it| it.as_str().unwrap().starts_with("PyTorch")), "{marks:?}");
    browser.choose("text", "pytorch crash");
    assert_eq!(browser.column("Status"), ["✕ crashed"]);
    browser.choose("text", "no such thing");
    assert_eq!(browser.column("Status"), [""; 0]);
    browser.choose("text", "");
    assert_eq!(browser.column("Status").len(), rows);
    assert_eq!(browser.console(), [""; 0]);
}

#[test]
fn the_page_sorts_on_a_phone_follows_the_systems_darkness_and_prints() {
    let page = as_html(&summary_of(&study::racing()));
    let Some(browser) = Browser::open(&page) else { return };
    let metrics = json!({"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": true});
    browser.chromium("Emulation.setDeviceMetricsOverride", metrics);
    // There rows have no header to click.
    browser.run(
        "const choice = document.getElementById('sort');
         choice.selectedIndex = [...choice.options].findIndex((it) => it.text === 'Peak Memory (MB) ↓');
         choice.dispatchEvent(new Event('input', { bubbles: true }));",
    );
    let memory = numbers(&browser.column("Peak Memory (MB)"));
    assert!(memory.len() > 5 && memory.iter().rev().is_sorted(), "{memory:?}");
    browser.chromium("Emulation.clearDeviceMetricsOverride", json!({}));

    let colors = || {
        browser.run(
        "const luminance = (color) => color.match(/[0-9.]+/g).slice(0, 3).reduce((sum, it) => sum + Number(it), 0);
         const of = (selector, property) =>
             luminance(getComputedStyle(document.querySelector(selector))[property]);
         return [of('html', 'backgroundColor') > 380, of('h1', 'color') > 380,
                 of('svg.chart .t', 'color') > 380];",
    )
    };
    assert_eq!(colors(), json!([true, false, false]));
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.chromium("Emulation.setEmulatedMedia", dark.clone());
    assert_eq!(colors(), json!([false, true, true]));
    // On paper it is light whatever the screen is.
    let mut print = dark;
    print["media"] = json!("print");
    browser.chromium("Emulation.setEmulatedMedia", print);
    assert_eq!(colors(), json!([true, false, false]));
    browser.chromium("Emulation.setEmulatedMedia", json!({"media": "", "features": []}));

    let pdf = browser.call("/print", json!({"background": true}));
    let pdf = base64::engine::general_purpose::STANDARD.decode(pdf.as_str().unwrap()).unwrap();
    assert!(pdf.starts_with(b"%PDF") && pdf.len() > 20_000, "{} bytes", pdf.len());
    browser.assert_silent();
}

#[test]
fn hostile_names_run_nothing_and_load_nothing() {
    let page = as_html(&summary_of(&hostile_files()));
    let Some(browser) = Browser::open(&page) else { return };
    browser.assert_silent();
    assert_eq!(
        browser
            .run("return [typeof window.pwned, document.images.length, document.scripts.length]"),
        json!(["undefined", 0, 1])
    );
    // The page still works, and shows the names as they are.
    browser.click("Train Loop (s)");
    assert!(numbers(&browser.column("Train Loop (s)")).is_sorted());
    let models = browser.column("Benchmark");
    assert!(models[0].contains("</script>"), "{models:?}");
}

#[test]
fn the_policy_stops_a_script_that_is_not_ours() {
    let page = as_html(&summary_of(&study::files()));
    let broken = page.replace(
        "<footer>",
        "<script>window.pwned=1</script><img src=x onerror=window.pwned=1><footer>",
    );
    let Some(browser) = Browser::open(&broken) else { return };
    assert_eq!(browser.run("return typeof window.pwned"), json!("undefined"));
    let refused = browser.console();
    assert!(refused.iter().any(|it| it.contains("Content Security Policy")), "{refused:?}");
}
