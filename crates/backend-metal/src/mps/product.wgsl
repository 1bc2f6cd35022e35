// What MPSMatrixMultiplication is documented to do, for the tests: result = alpha * op(left) *
// op(right) + beta * result, of each of `matrices` matrices, row-major without padding. One thread
// for each element of the result.

struct Product {
    rows: u32,
    columns: u32,
    interior: u32,
    matrices: u32,
    transposed: u32, // 1: left, 2: right
    alpha: f32,
    beta: f32,
}
var<immediate> product: Product;

@group(0) @binding(0) var<storage, read> left: array<f32>;
@group(0) @binding(1) var<storage, read> right: array<f32>;
@group(0) @binding(2) var<storage, read_write> result: array<f32>;

@compute @workgroup_size(64)
fn multiply(@builtin(global_invocation_id) id: vec3<u32>) {
    let of_matrix = product.rows * product.columns;
    let matrix = id.x / of_matrix;
    if matrix >= product.matrices {
        return;
    }
    let row = id.x % of_matrix / product.columns;
    let column = id.x % product.columns;
    let left_steps = select(vec2<u32>(product.interior, 1u), vec2<u32>(1u, product.rows),
        (product.transposed & 1u) == 1u);
    let right_steps = select(vec2<u32>(1u, product.columns), vec2<u32>(product.interior, 1u),
        (product.transposed & 2u) == 2u);
    var l = matrix * product.rows * product.interior + row * left_steps.x;
    var r = matrix * product.columns * product.interior + column * right_steps.x;
    var sum = 0.0;
    for (var i = 0u; i < product.interior; i++) {
        sum = fma(left[l], right[r], sum);
        l += left_steps.y;
        r += right_steps.y;
    }
    sum *= product.alpha;
    if product.beta != 0.0 {
        sum = fma(product.beta, result[id.x], sum);
    }
    result[id.x] = sum;
}
