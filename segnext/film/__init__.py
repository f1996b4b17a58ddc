"""Films, image sequences and cameras, segmented frame by frame.

    from segnext import Predictor
    from segnext.film import read_frames, segment_film
    report = segment_film(Predictor("camvid"), read_frames("clip.mp4"), overlay="clip_overlay.mp4")

It needs PyAV, `pip install 'segnext[video]'`, which brings FFmpeg's libraries; animated images need Pillow alone.
"""

from segnext.film.reading import Frame as Frame
from segnext.film.reading import Frames as Frames
from segnext.film.reading import read_camera as read_camera
from segnext.film.reading import read_frames as read_frames
from segnext.film.segmenting import FilmReport as FilmReport
from segnext.film.segmenting import segment_film as segment_film
