"""The papers that networks, recipes and stochastic depth come from, and how to cite them. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Paper:
    """A paper with what a BibTeX entry needs."""

    key: str
    cited_as: str
    """As this project cites it: authors and the year on arXiv."""
    arxiv: str
    authors: str
    """As BibTeX joins them."""
    title: str
    published_in: str
    year: int
    """Of the publication."""

    @property
    def citation(self) -> str:
        """The paper in a line."""
        return f"{self.cited_as}, arXiv:{self.arxiv}"

    @property
    def bibtex(self) -> str:
        """The paper as a BibTeX entry."""
        fields = {
            "title": f"{{{self.title}}}",  # braces twice keep the capitals
            "author": self.authors,
            "booktitle": self.published_in,
            "year": str(self.year),
            "eprint": self.arxiv,
            "archiveprefix": "arXiv",
        }
        return f"@inproceedings{{{self.key},\n" + "".join(f"  {k} = {{{v}}},\n" for k, v in fields.items()) + "}\n"


_CVPR = "IEEE Conference on Computer Vision and Pattern Recognition (CVPR)"
_HE = "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian"

HE_2015 = Paper(
    key="he2016deep",
    cited_as="He et al. 2015",
    arxiv="1512.03385",
    authors=_HE,
    title="Deep Residual Learning for Image Recognition",
    published_in=_CVPR,
    year=2016,
)
HE_2016 = Paper(
    key="he2016identity",
    cited_as="He et al. 2016",
    arxiv="1603.05027",
    authors=_HE,
    title="Identity Mappings in Deep Residual Networks",
    published_in="European Conference on Computer Vision (ECCV)",
    year=2016,
)
HUANG_2016 = Paper(
    key="huang2016deep",
    cited_as="Huang et al. 2016",
    arxiv="1603.09382",
    authors="Huang, Gao and Sun, Yu and Liu, Zhuang and Sedra, Daniel and Weinberger, Kilian Q.",
    title="Deep Networks with Stochastic Depth",
    published_in="European Conference on Computer Vision (ECCV)",
    year=2016,
)
XIE_2016 = Paper(
    key="xie2017aggregated",
    cited_as="Xie et al. 2016",
    arxiv="1611.05431",
    authors=r"Xie, Saining and Girshick, Ross and Doll{\'a}r, Piotr and Tu, Zhuowen and He, Kaiming",
    title="Aggregated Residual Transformations for Deep Neural Networks",
    published_in=_CVPR,
    year=2017,
)
ZAGORUYKO_2016 = Paper(
    key="zagoruyko2016wide",
    cited_as="Zagoruyko and Komodakis 2016",
    arxiv="1605.07146",
    authors="Zagoruyko, Sergey and Komodakis, Nikos",
    title="Wide Residual Networks",
    published_in="British Machine Vision Conference (BMVC)",
    year=2016,
)
HUANG_2017 = Paper(
    key="huang2017densely",
    cited_as="Huang et al. 2017",
    arxiv="1608.06993",
    authors="Huang, Gao and Liu, Zhuang and van der Maaten, Laurens and Weinberger, Kilian Q.",
    title="Densely Connected Convolutional Networks",
    published_in=_CVPR,
    year=2017,
)
SRIVASTAVA_2015 = Paper(
    key="srivastava2015training",
    cited_as="Srivastava et al. 2015",
    arxiv="1507.06228",
    authors=r"Srivastava, Rupesh Kumar and Greff, Klaus and Schmidhuber, J{\"u}rgen",
    title="Training Very Deep Networks",
    published_in="Advances in Neural Information Processing Systems (NIPS)",
    year=2015,
)
SIMONYAN_2014 = Paper(
    key="simonyan2015very",
    cited_as="Simonyan and Zisserman 2014",
    arxiv="1409.1556",
    authors="Simonyan, Karen and Zisserman, Andrew",
    title="Very Deep Convolutional Networks for Large-Scale Image Recognition",
    published_in="International Conference on Learning Representations (ICLR)",
    year=2015,
)
WIGHTMAN_2021 = Paper(
    key="wightman2021resnet",
    cited_as="Wightman et al. 2021",
    arxiv="2110.00476",
    authors=r"Wightman, Ross and Touvron, Hugo and J{\'e}gou, Herv{\'e}",
    title="{ResNet} strikes back: An improved training procedure in timm",
    published_in="NeurIPS 2021 Workshop on ImageNet: Past, Present, and Future",
    year=2021,
)
PAPERS = (
    HE_2015, HE_2016, HUANG_2016, XIE_2016, ZAGORUYKO_2016, HUANG_2017, SRIVASTAVA_2015, SIMONYAN_2014, WIGHTMAN_2021,
)  # fmt: skip


def papers_cited_in(texts: Iterable[str]) -> list[Paper]:
    """Return the papers whose arXiv number stands in one of the texts, in the order of `PAPERS`."""
    everything = "\n".join(texts)
    return [paper for paper in PAPERS if f"arXiv:{paper.arxiv}" in everything]
