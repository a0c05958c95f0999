# SPDX-License-Identifier: MIT
"""The operators that a file may hold: those that compute, and none that reads files, calls Python or makes graphs."""

_LAYERS = ("Activation BatchNorm Concat Convolution Crop Deconvolution Dropout Embedding Flatten FullyConnected "
           "GroupNorm InstanceNorm L2Normalization LRN LayerNorm LeakyReLU Pad Pooling ROIPooling Reshape SliceChannel "
           "Softmax SoftmaxActivation SoftmaxOutput SwapAxis UpSampling _contrib_AdaptiveAvgPooling2D "
           "_contrib_BatchNormWithReLU _contrib_BilinearResize2D _contrib_DeformableConvolution _contrib_ROIAlign "
           "BilinearSampler GridGenerator SpatialTransformer")
_SHAPES = ("BlockGrad Cast broadcast_axis broadcast_axes broadcast_like broadcast_to cast concat crop depth_to_space "
           "expand_dims flatten flip identity _copy im2col ones_like pad repeat reshape reshape_like reverse "
           "shape_array size_array slice slice_axis slice_like space_to_depth split _split_v2 squeeze stack swapaxes "
           "tile transpose zeros_like _zeros _ones _full _arange _contrib_arange_like amp_cast amp_multicast")
_ELEMENTS = ("abs add_n arccos arcsin arctan cbrt ceil clip cos degrees elemwise_add elemwise_div elemwise_mul "
             "elemwise_sub ElementWiseSum erf erfinv exp expm1 fix floor gamma gammaln hard_sigmoid log log10 log1p "
             "log2 log_sigmoid log_softmax logical_not mish negative radians rcbrt reciprocal relu rint round rsqrt "
             "sigmoid sign sin sinh smooth_l1 softmax softmin softsign sqrt square tan tanh trunc _hypot _maximum "
             "_minimum _mod _power _plus _minus _mul _div _grad_add _rnn_param_concat _sample_uniform")
_SCALARS = ("_plus_scalar _minus_scalar _rminus_scalar _mul_scalar _div_scalar _rdiv_scalar _power_scalar "
            "_rpower_scalar _maximum_scalar _minimum_scalar _mod_scalar _rmod_scalar _equal_scalar _not_equal_scalar "
            "_greater_scalar _greater_equal_scalar _lesser_scalar _lesser_equal_scalar _hypot_scalar")
_BINARY = ("broadcast_add broadcast_plus broadcast_minus broadcast_sub broadcast_mul broadcast_div broadcast_mod "
           "broadcast_power broadcast_maximum broadcast_minimum broadcast_hypot broadcast_equal broadcast_not_equal "
           "broadcast_greater broadcast_greater_equal broadcast_lesser broadcast_lesser_equal broadcast_logical_and "
           "broadcast_logical_or broadcast_logical_xor _equal _not_equal _greater _greater_equal _lesser _lesser_equal "
           "dot batch_dot where take pick one_hot gather_nd batch_take")
_REDUCTIONS = ("argmax argmin argsort max max_axis mean min min_axis nansum norm prod sort sum sum_axis topk moments "
               "cumsum _np_cumsum")
_DETECTION = ("_contrib_MultiBoxPrior _contrib_MultiBoxDetection _contrib_box_nms _contrib_box_decode _contrib_box_iou "
              "_contrib_bipartite_matching _contrib_boolean_mask _contrib_index_copy _contrib_div_sqrt_dim "
              "_contrib_quadratic _contrib_Proposal _contrib_MultiProposal")

ALLOWED = frozenset(" ".join((_LAYERS, _SHAPES, _ELEMENTS, _SCALARS, _BINARY, _REDUCTIONS, _DETECTION)).split())
