"""What a user agent string says of itself: crawler, automation, monitor, preview.

Only what clients declare is recognised; a robot that calls itself a browser is caught by its rate.
The patterns are part of this version, so that a replay judges as the first run did.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_TEXT_LIMIT = 1024

_PATTERNS: Final = {
    "preview": (
        r"facebookexternalhit|facebookcatalog|facebot|twitterbot|slack(?:bot|-imgproxy)"
        r"|telegrambot|discordbot|^whatsapp|linkedinbot|skypeuripreview|pinterestbot|pinterest/0\."
        r"|iframely|embedly|vkshare|redditbot|bitlybot|snap url preview|quora link preview"
        r"|mattermost|zoombot|microsoftpreview|(?:link|web)[ _-]?preview"
    ),
    "monitor": (
        r"pingdom|uptime|statuscake|site24x7|gtmetrix|lighthouse|pagespeed|newrelicpinger"
        r"|datadogsynthetics|catchpoint|hetrixtools|nodeping|checkly|better ?stack|freshping"
        r"|montastic|zabbix|nagios|blackbox[ -]exporter|kube-probe|elb-healthchecker|googlehc"
        r"|health-?check|ptst/|dareboost|\bmonit(?:or|oring|is)?\b|webmon\b|sentry/"
    ),
    "automation": (
        r"headless|phantomjs|slimerjs|selenium|webdriver|puppeteer|playwright|cypress|htmlunit"
        r"|httpunit|electron-fetch|wget|curl|libwww|\blwp|python|aiohttp|\bhttpx|urllib"
        r"|go-http|^go |java/|jersey/|jetty/|^ahc/|httpclient|http[_-](?:get|request)|axios"
        r"|node-?fetch|undici|^got |superagent|guzzle|\bruby\b|faraday|\bperl\b|php/|winhttp"
        r"|powershell|postman|insomnia|rest-client|restsharp|fasthttp|reqwest|\bhyper/|mechanize"
        r"|jmeter|apachebench|\bk6/|gatling|locust|scrapy|\bcolly\b|httrack|\bnmap|nikto|sqlmap"
        r"|masscan|zgrab|nuclei|wpscan"
    ),
    "crawler": (
        r"(?<!cu)bot(?:s?(?![a-z])|[/_;.-])|[a-z]bot[a-z]|^bot"  # Cubot makes telephones
        r"|crawl|spider|slurp|scrap(?:e|er|ing)\b|archiver|archive\.org|nutch|fetch(?:er|or)?\b"
        r"|feed|\brss|search[ _-]?engine|index(?:er|ing)|validator|checker|analyzer|favicon"
        r"|link[ _-]?(?:walk|exam|dex|scan|sleuth|find)|sitemap|scan(?:ner)?\b|\bseo\b|semantic"
        r"|mediapartners|meta-external|adsbot|apis-google|googleother|google-(?:read|inspection|structured"
        r"|safety|site|extended|cloudvertex|physicalweb|adwords)|bingpreview|cloudfront|yahoo!"
        # Browsers give no address, and none but these two is "compatible".
        r"|https?:/|www\.|[\w.-]@[\w-]+\.[a-z]|compatible[;)](?! ?(?:msie|konqueror))"
    ),
}

USER_AGENT_CLASSES: Final = ("crawler", "automation", "monitor", "preview")
"""Classes of clients that are no shopper's browser or app."""

_compiled = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _PATTERNS.items()}


@lru_cache(maxsize=8192)
def classify(user_agent: str) -> str | None:
    """Class of a user agent, one of :data:`USER_AGENT_CLASSES`; None for a browser or an app."""
    text = user_agent[:_TEXT_LIMIT]
    for name, pattern in _compiled.items():
        if pattern.search(text):
            return name
    return None
