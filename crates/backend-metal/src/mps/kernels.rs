//! The kernels of `kernels.wgsl`, and each one's bindings.

/// The one source of the kernels.
#[cfg(test)]
pub(crate) const WGSL: &str = include_str!("../../kernels/kernels.wgsl");
/// naga's translation of it, which the tests keep equal.
pub(crate) const METAL: &str = include_str!("../../kernels/kernels.metal");

/// Where `kernels.metal` takes the arguments, and the sizes of the bound buffers, which naga's
/// translation wants to know even where it never looks at them.
pub(crate) const ARGUMENTS_INDEX: usize = 8;
pub(crate) const SIZES_INDEX: usize = 9;
/// Bytes of those sizes: four for each of the text's buffers, and to spare.
pub(crate) const SIZES_BYTES: usize = 128;
/// Memory of a threadgroup, which naga's translation makes the kernels' one argument of that kind.
pub(crate) const THREADGROUP_BYTES: usize = 4 * 640;

/// The access of a kernel to a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    ReadWrite,
}

impl Access {
    #[cfg(test)]
    pub(crate) fn reads(self) -> bool {
        self != Access::Write
    }

    pub(crate) fn writes(self) -> bool {
        self != Access::Read
    }
}

macro_rules! kernels {
    ($($variant:ident $name:literal $threads:literal [$($access:ident)*],)*) => {
        /// An entry point of `kernels.wgsl`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Kernel { $($variant,)* }

        impl Kernel {
            #[cfg(test)]
            pub(crate) const ALL: &[Kernel] = &[$(Kernel::$variant,)*];

            /// Of the entry point, in WGSL and in Metal.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Kernel::$variant => $name,)* }
            }

            /// Threads of a workgroup.
            pub(crate) fn threads(self) -> usize {
                match self { $(Kernel::$variant => $threads,)* }
            }

            /// Of each binding, from 0.
            pub(crate) fn accesses(self) -> &'static [Access] {
                match self { $(Kernel::$variant => &[$(Access::$access,)*],)* }
            }
        }
    };
}

kernels! {
    Gather "gather" 256 [Read Read Write],
    GatherPatches "gather_patches" 256 [Read Read Write],
    Bias "bias" 256 [ReadWrite Read],
    BiasRelu "bias_relu" 256 [ReadWrite Read],
    BiasPositionRelu "bias_position_relu" 256 [ReadWrite Read Read],
    ReluBack "relu_back" 256 [ReadWrite Read],
    StepColumns "step_columns" 256 [Read ReadWrite],
    CrossEntropy "cross_entropy" 64 [ReadWrite Read Read Read Write],
    MeanLoss "mean_loss" 256 [Read Write],
    Predict "predict" 64 [Read Read Write],
    Convolve "convolve" 256 [Read Read Read Write Write],
    ConvolveBack "convolve_back" 64 [Read Read Read Write Write],
    Softmax "softmax" 64 [ReadWrite],
    SoftmaxBack "softmax_back" 64 [ReadWrite Read],
    MeanTokens "mean_tokens" 256 [Read Write],
    MeanTokensBack "mean_tokens_back" 256 [Read Read Write],
}

impl Kernel {
    /// Whether its threads exchange values through memory of their workgroup.
    pub(crate) fn exchanges(self) -> bool {
        use Kernel::{ConvolveBack, MeanLoss, Softmax, SoftmaxBack, StepColumns};
        matches!(self, StepColumns | MeanLoss | ConvolveBack | Softmax | SoftmaxBack)
    }
}
