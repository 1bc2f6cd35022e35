//! How the groups of windows of a batch are shared between threads, and in which order their gradients of the
//! weights are summed.
//!
//! Windows go through the model in groups, all their tokens as the rows of one matrix: a thread reads a
//! block's weights once a group, and a weight's gradient is summed over a group in registers.
//!
//! The order is a tree that depends on the number of groups alone: it halves them again and again, down
//! to one. A thread has a contiguous share, in which it sums whole nodes of the tree, *blocks*; after a
//! barrier the blocks are summed the same way. So the bits are equal at any number of threads, and with
//! two threads, or four, each has one block.

use nn::gpt::Shape;
use std::ops::Range;

/// Tokens of a group, about: enough rows for what is fetched from the third-level cache, a block's
/// weights, and few, as a thread takes whole groups. Two threads of a Xeon take 12.1 ms for a step of
/// `small` on AMX with 64, 11.3 with 128 and 10.8 with 192, but then a batch of 12 windows is no more
/// than four groups, which three threads cannot share evenly and eight do not use.
const TOKENS: usize = 128;

/// Windows of a group, of so many in a batch; the last group may have fewer.
pub fn group(shape: Shape, windows: usize) -> usize {
    (TOKENS / shape.context).clamp(1, windows)
}

/// What becomes of one group's gradient: with the partial sums of the levels below it, it makes up a
/// new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub group: usize,
    /// Which of all blocks it belongs to.
    pub block: usize,
    /// Partial sums of its block that are there before it.
    pub level: usize,
    /// How many of them are added to it, the last first.
    pub merged: usize,
}

/// A block, put on a stack of sums, and how many of those below it are then added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push {
    pub block: usize,
    pub merged: usize,
}

/// The plan of a batch.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The leaves of each thread, in order.
    pub leaves: Vec<Vec<Leaf>>,
    /// How the blocks are summed.
    pub pushes: Vec<Push>,
    /// Most partial sums of a block at a time, its own among them.
    pub levels: usize,
    /// Most sums on the stack of blocks at a time.
    pub stack: usize,
}

impl Plan {
    /// For so many groups, at least one, in these contiguous shares.
    pub fn new(groups: usize, shares: impl Iterator<Item = Range<usize>>) -> Plan {
        let shares: Vec<_> = shares.collect();
        let leaves = vec![Vec::new(); shares.len()];
        let mut plan = Plan { leaves, pushes: Vec::new(), levels: 1, stack: 0 };
        plan.visit(&shares, 0..groups, 0);
        plan
    }

    /// Plans a node whose sum lies at `depth` of the stack of blocks.
    fn visit(&mut self, shares: &[Range<usize>], node: Range<usize>, depth: usize) {
        self.stack = self.stack.max(depth + 1);
        let within = |share: &Range<usize>| share.start <= node.start && node.end <= share.end;
        if let Some(thread) = shares.iter().position(within) {
            let block = self.pushes.len();
            self.pushes.push(Push { block, merged: 0 });
            self.leaf(thread, block, node, 0);
        } else {
            let middle = node.start.midpoint(node.end);
            self.visit(shares, node.start..middle, depth);
            self.visit(shares, middle..node.end, depth + 1);
            if let Some(last) = self.pushes.last_mut() {
                last.merged += 1;
            }
        }
    }

    /// Plans a node of a block whose sum lies at `level`.
    fn leaf(&mut self, thread: usize, block: usize, node: Range<usize>, level: usize) {
        self.levels = self.levels.max(level + 1);
        if node.len() == 1 {
            let leaf = Leaf { group: node.start, block, level, merged: 0 };
            self.leaves[thread].push(leaf);
        } else {
            let middle = node.start.midpoint(node.end);
            self.leaf(thread, block, node.start..middle, level);
            self.leaf(thread, block, middle..node.end, level + 1);
            if let Some(last) = self.leaves[thread].last_mut() {
                last.merged += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(windows: usize, threads: usize) -> Plan {
        let at = move |index: usize| windows * index / threads;
        Plan::new(windows, (0..threads).map(|index| at(index)..at(index + 1)))
    }

    /// The sum as a formula.
    fn formula(plan: &Plan) -> String {
        let mut blocks = vec![Vec::<String>::new(); plan.pushes.len()];
        for leaf in plan.leaves.iter().flatten() {
            let sums = &mut blocks[leaf.block];
            assert_eq!(sums.len(), leaf.level);
            assert!(leaf.level < plan.levels);
            let mut sum = leaf.group.to_string();
            for _ in 0..leaf.merged {
                sum = format!("({} {sum})", sums.pop().unwrap());
            }
            sums.push(sum);
        }
        let mut stack: Vec<String> = Vec::new();
        for push in &plan.pushes {
            let [sum] = &*blocks[push.block] else { panic!("one sum of a block") };
            let mut sum = sum.clone();
            assert!(stack.len() < plan.stack);
            for _ in 0..push.merged {
                sum = format!("({} {sum})", stack.pop().unwrap());
            }
            stack.push(sum);
        }
        let [sum] = &*stack else { panic!("one sum of all") };
        sum.clone()
    }

    #[test]
    fn the_sum_is_the_same_at_any_number_of_threads() {
        assert_eq!(formula(&plan(5, 1)), "((0 1) (2 (3 4)))");
        for windows in 1..=33 {
            let one = formula(&plan(windows, 1));
            for threads in 2..=40 {
                assert_eq!(formula(&plan(windows, threads)), one);
            }
        }
    }

    #[test]
    fn two_and_four_threads_have_one_block_each() {
        assert_eq!(plan(12, 2).pushes.len(), 2);
        assert_eq!(plan(12, 4).pushes.len(), 4);
        assert_eq!(plan(12, 1).pushes, [Push { block: 0, merged: 0 }]);
    }
}
