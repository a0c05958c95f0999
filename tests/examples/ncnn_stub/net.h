// SPDX-License-Identifier: MIT
// As much of ncnn's interface as run_ncnn.cpp uses; the "network" hands its input on.
#include <vector>

namespace ncnn {

class Mat
{
public:
    enum { PIXEL_RGB, PIXEL_GRAY, PIXEL_RGB2BGR };
    int w = 0, h = 0, d = 1, c = 0;
    std::vector<float> data; // channels, rows, columns

    static Mat from_pixels(const unsigned char* pixels, int type, int w, int h)
    {
        Mat m;
        m.w = w, m.h = h, m.c = type == PIXEL_GRAY ? 1 : 3;
        for (int c = 0; c < m.c; c++)
            for (int i = 0; i < w * h; i++)
                m.data.push_back(pixels[i * m.c + (type == PIXEL_RGB2BGR ? m.c - 1 - c : c)]);
        return m;
    }
    // the nearest pixel
    static Mat from_pixels_resize(const unsigned char* pixels, int type, int w, int h, int to_w, int to_h)
    {
        const Mat from = from_pixels(pixels, type, w, h);
        Mat m;
        m.w = to_w, m.h = to_h, m.c = from.c;
        for (int c = 0; c < m.c; c++)
            for (int y = 0; y < to_h; y++)
                for (int x = 0; x < to_w; x++)
                    m.data.push_back(from.data[(c * h + y * h / to_h) * w + x * w / to_w]);
        return m;
    }
    void substract_mean_normalize(const float* mean, const float* norm)
    {
        for (int i = 0; i < (int)data.size(); i++)
            data[i] = (data[i] - mean[i / (w * h)]) * norm[i / (w * h)];
    }
    Mat reshape(int size) const
    {
        Mat m = *this;
        m.w = size, m.h = m.c = 1;
        return m;
    }
    operator const float*() const { return data.data(); }
};

inline void copy_cut_border(const Mat& from, Mat& to, int top, int bottom, int left, int right)
{
    to = Mat();
    to.w = from.w - left - right, to.h = from.h - top - bottom, to.c = from.c;
    for (int c = 0; c < to.c; c++)
        for (int y = 0; y < to.h; y++)
            for (int x = 0; x < to.w; x++)
                to.data.push_back(from.data[(c * from.h + y + top) * from.w + x + left]);
}

class Extractor
{
public:
    int input(const char*, const Mat& m) { held = m; return 0; }
    int extract(const char*, Mat& m) { m = held; return 0; }
private:
    Mat held;
};

class Option
{
public:
    int num_threads = 0;
    bool use_fp16_packed = true, use_fp16_storage = true, use_fp16_arithmetic = true, use_bf16_storage = false;
    bool use_packing_layout = true, use_winograd_convolution = true;
};

class Net
{
public:
    Option opt;
    int load_param(const char*) { return 0; }
    int load_model(const char*) { return 0; }
    Extractor create_extractor() const { return Extractor(); }
};

} // namespace ncnn
