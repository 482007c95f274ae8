"""Types of requests and answers of the HTTP API, for programs that use the client."""

from tactful.schemas.item_details import FacetCount as FacetCount
from tactful.schemas.item_details import Facets as Facets
from tactful.schemas.item_details import ItemNeighbours as ItemNeighbours
from tactful.schemas.item_details import ItemTrends as ItemTrends
from tactful.schemas.item_details import Neighbour as Neighbour
from tactful.schemas.items import CatalogueItem as CatalogueItem
from tactful.schemas.items import ItemList as ItemList
from tactful.schemas.items import ItemPage as ItemPage
from tactful.schemas.recommendations import ExplainedItem as ExplainedItem
from tactful.schemas.recommendations import RecommendRequest as RecommendRequest
from tactful.schemas.trials import ChannelList as ChannelList
from tactful.schemas.trials import MadeUpPerson as MadeUpPerson
from tactful.schemas.trials import PastEvent as PastEvent
from tactful.schemas.trials import Trial as Trial
from tactful.schemas.trials import TrialRequest as TrialRequest
from tactful.schemas.trials import TrialVariant as TrialVariant
from tactful.schemas.trials import TriedVariant as TriedVariant
