//! How the ten digits are written: each in several styles, as a pen would move.
//!
//! A style is a path in the notation of SVG (`M` moves, `L` draws a line, `C` a cubic Bezier curve;
//! absolute coordinates) in a box of 100 x 100, y downwards. They are our own drawings.

/// A point in the box, (x, y) in 0..100.
pub(super) type Point = [f32; 2];

/// A cubic Bezier curve.
pub(super) type Curve = [Point; 4];

/// The strokes of a style; in a stroke, each curve begins where the last one ended.
pub(super) type Strokes = Vec<Vec<Curve>>;

const PATHS: [&[&str]; 10] = [
    &[
        // an oval, from the top, against the clock
        "M50,4 C22,4 14,30 14,52 C14,78 28,96 50,96 C74,96 86,74 86,48 C86,24 74,4 50,4",
        // narrow and slanted, the end crosses the beginning
        "M62,8 C40,0 24,26 22,52 C20,82 34,98 48,96 C70,93 80,60 76,34 C74,18 66,8 54,10",
        // wide, not quite closed
        "M56,10 C30,6 10,28 12,54 C14,84 36,94 54,92 C82,88 92,58 84,36 C78,20 66,12 50,16",
        // with the clock, ending in a curl
        "M40,12 C60,0 88,18 88,50 C88,82 66,96 46,94 C22,92 12,66 16,42 C18,24 30,10 48,8 \
         C58,7 64,12 62,20",
    ],
    &[
        "M50,4 L50,96",
        "M62,4 L38,96",
        // with a flag
        "M32,26 L54,5 L54,96",
        // with a flag and a foot
        "M32,24 L52,5 L52,94 M28,95 L76,95",
        "M58,4 C54,30 46,66 44,96",
        // a long upstroke, near to a 7
        "M22,40 C36,32 50,18 58,4 L56,96",
    ],
    &[
        "M16,28 C18,8 42,2 58,6 C82,12 82,34 68,52 C54,68 32,82 14,94 L88,94",
        // a loop at the foot
        "M20,22 C34,0 76,2 76,28 C76,52 46,74 26,88 C14,96 10,84 22,80 C40,76 60,98 90,88",
        // like a z
        "M18,12 C40,4 72,4 76,16 C78,30 40,66 14,94 L84,92",
        "M14,34 C14,10 36,4 52,4 C74,4 84,22 74,42 C62,64 36,76 18,92 C36,84 56,92 70,94 \
         C80,95 88,92 92,86",
    ],
    &[
        "M18,16 C34,0 76,2 74,26 C72,44 52,48 38,48 C62,46 84,56 82,74 C80,98 36,100 14,86",
        // a flat top
        "M18,8 L76,8 L44,42 C70,40 86,56 82,74 C78,98 38,102 14,84",
        "M22,10 C50,0 80,10 70,30 C64,42 48,46 36,50 C60,48 80,58 76,78 C70,98 36,98 16,88",
        // a loop in the middle
        "M20,18 C36,2 72,4 72,24 C72,40 50,50 40,50 C32,50 34,42 44,46 C66,50 84,62 78,80 \
         C70,98 34,98 16,86",
    ],
    &[
        // open
        "M26,6 C22,26 18,44 16,56 L84,54 M68,8 C66,40 64,70 62,96",
        // closed, three straight lines
        "M64,4 L12,66 L90,66 M66,6 L64,96",
        // open, the arms joined by a curve
        "M22,8 C16,30 14,52 28,56 C46,60 66,50 74,40 M78,6 C74,40 70,70 66,96",
        // in one stroke, near to a 9
        "M66,96 C66,60 68,30 70,4 C50,26 26,48 10,64 C34,66 64,64 90,62",
    ],
    &[
        "M80,6 L30,6 L24,44 C48,34 82,42 82,68 C82,96 40,102 14,88",
        "M28,8 C26,24 24,36 22,46 C46,38 78,46 78,70 C78,96 38,100 14,90 M28,8 L82,6",
        // like an s
        "M82,10 C60,4 34,4 28,20 C22,40 44,44 58,50 C80,58 82,78 66,90 C50,100 26,96 12,88",
        "M72,8 L36,10 C32,24 28,34 26,44 C44,36 72,44 70,68 C68,92 38,98 20,84",
    ],
    &[
        "M68,4 C42,16 18,44 18,70 C18,92 36,98 52,96 C74,94 82,76 74,62 C64,46 32,52 20,72",
        "M58,4 C40,28 24,54 24,76 C26,100 70,102 76,76 C80,54 42,46 26,74",
        "M82,10 C50,2 20,30 16,62 C14,92 40,98 58,94 C82,88 84,60 62,56 C42,54 24,66 18,78",
        // a small loop
        "M54,4 C36,30 26,56 30,78 C34,98 64,98 66,82 C68,66 44,64 32,82",
    ],
    &[
        "M14,10 L84,8 C66,36 50,64 40,96",
        // with a bar
        "M14,10 L84,8 C66,36 50,64 40,96 M30,53 L76,50",
        // with a serif
        "M16,24 L18,8 L82,8 C68,36 56,64 50,96",
        "M14,14 C36,6 60,10 82,8 C78,36 62,60 56,96",
        "M18,10 L78,10 L42,96",
    ],
    &[
        // an s, closed on the way back
        "M74,18 C58,-2 22,4 26,26 C30,46 80,52 78,76 C76,100 22,100 22,76 C22,52 68,46 74,18",
        // two circles
        "M50,48 C22,44 22,4 50,4 C78,4 78,44 50,48 C14,52 14,96 50,96 C86,96 86,52 50,48",
        "M72,14 C60,0 36,8 36,26 C36,44 64,54 62,76 C60,98 30,100 26,82 C22,62 66,46 74,20",
        // from the middle
        "M46,48 C20,40 30,2 56,4 C84,8 76,38 46,50 C14,62 14,94 42,96 C74,98 80,62 46,48",
    ],
    &[
        "M78,20 C66,0 22,4 20,32 C20,58 64,58 78,24 C80,50 76,76 70,96",
        // a straight stem
        "M74,30 C74,8 24,0 22,32 C22,56 66,54 74,30 L70,96",
        // a curved tail
        "M76,26 C70,2 26,4 24,30 C22,54 62,56 76,28 C80,60 72,96 28,92",
        // a small loop
        "M68,24 C62,6 28,10 28,32 C28,52 62,48 70,20 C66,50 58,74 44,96",
    ],
];

/// All styles of each digit.
pub(super) fn styles() -> [Vec<Strokes>; 10] {
    PATHS.map(|paths| paths.iter().map(|path| parse(path)).collect())
}

fn point(text: &str) -> Option<Point> {
    let (x, y) = text.split_once(',')?;
    Some([x.parse().ok()?, y.parse().ok()?])
}

/// A straight line as a curve, so that it can be bent.
fn line(from: Point, to: Point) -> Curve {
    let along = |t: f32| [from[0] + (to[0] - from[0]) * t, from[1] + (to[1] - from[1]) * t];
    [from, along(1.0 / 3.0), along(2.0 / 3.0), to]
}

/// Reads a path. The paths above are constants, all read by a test, so a mistake in one is a
/// mistake in this file and ends the program.
fn parse(path: &str) -> Strokes {
    let mut strokes = Strokes::new();
    let (mut command, mut pen, mut controls) = ('M', [0.0; 2], Vec::new());
    for word in path.split_whitespace() {
        command = word.chars().next().filter(char::is_ascii_alphabetic).unwrap_or(command);
        let to = point(word.trim_start_matches(command)).unwrap_or_else(|| panic!("{word}"));
        let curve = match command {
            'M' => {
                strokes.push(Vec::new());
                pen = to;
                continue;
            }
            'L' => line(pen, to),
            _ => {
                controls.push(to);
                let [first, second, last] = controls[..] else { continue };
                controls.clear();
                [pen, first, second, last]
            }
        };
        strokes.last_mut().expect("a path begins with M").push(curve);
        pen = to;
    }
    strokes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_connected_curves() {
        let strokes = parse("M0,0 L30,60 C40,60 50,50 50,40 50,30 40,20 30,20 M5,5 L6,6");
        assert_eq!(strokes.len(), 2);
        assert_eq!(strokes[0][0], [[0.0, 0.0], [10.0, 20.0], [20.0, 40.0], [30.0, 60.0]]);
        assert_eq!(strokes[0][1], [[30.0, 60.0], [40.0, 60.0], [50.0, 50.0], [50.0, 40.0]]);
        assert_eq!(strokes[0][2], [[50.0, 40.0], [50.0, 30.0], [40.0, 20.0], [30.0, 20.0]]);
        assert_eq!(strokes[1].len(), 1);
    }

    #[test]
    fn every_digit_has_several_styles_that_fill_the_height_of_the_box() {
        for (digit, styles) in styles().iter().enumerate() {
            assert!(styles.len() >= 4, "digit {digit}");
            for (style, strokes) in styles.iter().enumerate() {
                assert!(
                    strokes.iter().all(|stroke| !stroke.is_empty()),
                    "{digit} in style {style}"
                );
                let heights = || strokes.iter().flatten().flatten().map(|point| point[1]);
                let (top, bottom) =
                    (heights().fold(100.0, f32::min), heights().fold(0.0, f32::max));
                assert!(top <= 12.0 && bottom >= 88.0, "{digit} in style {style}: {top} {bottom}");
            }
        }
    }
}
